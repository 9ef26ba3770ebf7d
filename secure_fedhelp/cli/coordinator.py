"""``secure-fedhelp coordinator``: what the operator of a coordinator runs. It needs neither torch nor TenSEAL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Run the server that adds encrypted contributions and can read none of them.\n\n"
    "Example: secure-fedhelp coordinator serve --folder coordinator --plan plan.toml --listen 0.0.0.0:8443",
    no_args_is_help=True,
)


@app.command("init")
def init(
    folder: Annotated[Path, typer.Option(help="The coordinator's own folder.")],
    consortium: Annotated[str, typer.Option(help="Name of the consortium, as in its certificates.")],
    name: Annotated[str, typer.Option(help="This coordinator's name.")],
) -> None:
    """Make the coordinator's keys and its certificate request; private keys never leave the folder.

    Example: secure-fedhelp coordinator init --folder coordinator --consortium lungs --name coordinator
    """
    from secure_fedhelp.coordinator.setup import init_coordinator
    from secure_fedhelp.identity.certificates import request_fingerprint

    request = init_coordinator(folder, consortium, name)
    out = Console(highlight=False, soft_wrap=True)
    fingerprint = request_fingerprint(request.read_bytes())
    out.print(f"Made the keys of coordinator {name} in {folder} (readable by you only).", markup=False)
    out.print(f"Fingerprint of the request, to compare by telephone: {fingerprint}", markup=False)
    out.print(
        f"Next: send {request} to the consortium with the host name that hospitals will connect to; "
        "put the answer beside it as tls.crt, and ca.crt and revoked.crl too.",
        markup=False,
    )


@app.command("serve")
def serve(
    folder: Annotated[Path, typer.Option(help="The coordinator's own folder, made by 'init'.")],
    plan: Annotated[Path, typer.Option(help="The study plan, the same file that every hospital has.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes any (see FOLDER/address).")],
    linger: Annotated[
        float, typer.Option(min=0, help="Seconds to serve on after the study for hospitals that have not said goodbye.")
    ] = 60.0,
) -> None:
    """Coordinate one study until it is over. Run it again after a crash or a stop: the study goes on where it was.

    Example: secure-fedhelp coordinator serve --folder coordinator --plan plan.toml --listen 0.0.0.0:8443
    """
    import time

    from secure_fedhelp.coordinator.server import serve as run
    from secure_fedhelp.study.plan import load_plan

    out = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        out.print(time.strftime("%H:%M:%S"), line, markup=False)

    error = run(folder, load_plan(plan), listen, time.time, say, linger).ended_error()
    if error is not None:
        raise error
