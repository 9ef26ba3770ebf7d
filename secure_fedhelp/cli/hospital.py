"""``secure-fedhelp hospital``: what a hospital's IT staff run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Set up one hospital and take part in a study.\n\n"
    "Example: secure-fedhelp hospital init --folder st-anna --consortium lungs --name st-anna",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Option("--folder", help="The hospital's own folder.")]


@app.command("init")
def init(
    folder: _Folder,
    consortium: Annotated[str, typer.Option(help="Name of the consortium, as in its certificates.")],
    name: Annotated[str, typer.Option(help="This hospital's name, as in the study plan.")],
    renew: Annotated[bool, typer.Option(help="Make a new request for the same key.")] = False,
) -> None:
    """Make this hospital's keys and its certificate request; private keys never leave the folder.

    Example: secure-fedhelp hospital init --folder st-anna --consortium lungs --name st-anna
    """
    from secure_fedhelp.hospital.setup import init_hospital
    from secure_fedhelp.identity.certificates import request_fingerprint

    request = init_hospital(folder, consortium, name, renew=renew)
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"{'Kept' if renew else 'Made'} the keys of {name} in {folder / 'keys'} (readable by you only).", markup=False
    )
    fingerprint = request_fingerprint(request.read_bytes())
    out.print(f"Fingerprint of the request, to compare by telephone: {fingerprint}", markup=False)
    out.print(
        f"Next: send {request} to the consortium; its answer goes beside it: tls.crt, ca.crt and revoked.crl.",
        markup=False,
    )
    out.print(f"Then: write your limits into {folder / 'policy.toml'} and your paths into hospital.toml.", markup=False)


@app.command("join")
def join(
    folder: _Folder,
    plan: Annotated[Path, typer.Option(help="The study plan to sign and follow.")],
    coordinator: Annotated[str, typer.Option(help="Address of the coordinator, HOST:PORT.")],
) -> None:
    """Check the plan against the site policy, sign it, and take part until the study ends.

    Run it again after a crash or a restart: it goes on where it was.

    Example: secure-fedhelp hospital join --folder st-anna --plan plan.toml --coordinator fed.example:8443
    """
    from secure_fedhelp.hospital.taking_part import take_part

    out = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        out.print(line, markup=False)

    take_part(folder, plan, coordinator, say)
