"""``secure-fedhelp coordinator``: what the operator of a coordinator runs. It needs neither torch nor TenSEAL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secure_fedhelp.cli.unlocking import (
    KeyFile,
    NewKeyFile,
    NewPassphrase,
    OtherKeyFile,
    OtherPassphrase,
    OtherPassphraseFile,
    PassphraseFile,
    rekey_folder,
    sealed_report,
)

app = typer.Typer(
    help="Run the server that adds encrypted contributions and can read none of them.\n\n"
    "Example: secure-fedhelp coordinator serve --folder coordinator --plan plan.toml --listen 0.0.0.0:8443",
    no_args_is_help=True,
)

_Folder = Annotated[Path, typer.Option("--folder", help="The coordinator's own folder, made by 'init'.")]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Option(help="The coordinator's own folder.")],
    consortium: Annotated[str, typer.Option(help="Name of the consortium, as in its certificates.")],
    name: Annotated[str, typer.Option(help="This coordinator's name.")],
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the coordinator's keys, sealed, and its certificate request; private keys never leave the folder.

    Example: secure-fedhelp coordinator init --folder coordinator --consortium lungs --name coordinator
    """
    from secure_fedhelp.coordinator.setup import init_coordinator
    from secure_fedhelp.identity.certificates import request_fingerprint
    from secure_fedhelp.identity.lock import opened_by
    from secure_fedhelp.identity.private_files import read_public
    from secure_fedhelp.identity.secret_source import SecretSource

    request = init_coordinator(folder, consortium, name, SecretSource(key_file, passphrase, passphrase_file))
    out = Console(highlight=False, soft_wrap=True)
    fingerprint = request_fingerprint(read_public(request))
    out.print(f"Made the keys of coordinator {name} in {folder}, sealed; {opened_by(folder)}.", markup=False)
    out.print(f"Fingerprint of the request, to compare by telephone: {fingerprint}", markup=False)
    out.print(
        f"Next: send {request} to the consortium with the host name that hospitals will connect to; "
        "put the answer beside it as tls.crt, and ca.crt and revoked.crl too.",
        markup=False,
    )


@app.command("serve")
def serve(
    folder: _Folder,
    plan: Annotated[Path, typer.Option(help="The study plan, the same file that every hospital has.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes any (see FOLDER/address).")],
    linger: Annotated[
        float, typer.Option(min=0, help="Seconds to serve on after the study for hospitals that have not said goodbye.")
    ] = 60.0,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Coordinate one study until it is over. Run it again after a crash or a stop: the study goes on where it was.

    Example: secure-fedhelp coordinator serve --folder coordinator --plan plan.toml --listen 0.0.0.0:8443
    """
    import time

    from secure_fedhelp.coordinator.server import allow_many_files
    from secure_fedhelp.coordinator.server import serve as run
    from secure_fedhelp.identity.secret_source import SecretSource
    from secure_fedhelp.study.plan import load_plan

    out = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        out.print(time.strftime("%H:%M:%S"), line, markup=False)

    allow_many_files()
    source = SecretSource(key_file, passphrase_file=passphrase_file)
    error = run(folder, load_plan(plan), listen, time.time, say, linger, source=source).ended_error()
    if error is not None:
        raise error


@app.command("rekey")
def rekey(
    folder: _Folder,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key_file: OtherKeyFile = None,
    new_passphrase: OtherPassphrase = False,
    new_passphrase_file: OtherPassphraseFile = None,
) -> None:
    """Change the passphrase or key file that opens this folder. The keys themselves stay.

    Example: secure-fedhelp coordinator rekey --folder coordinator --new-passphrase
    """
    from secure_fedhelp.identity.secret_source import SecretSource

    old = SecretSource(key_file, passphrase_file=passphrase_file)
    text = rekey_folder(folder, old, new_key_file, new_passphrase, new_passphrase_file)
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


@app.command("seal-keys")
def seal_keys(
    folder: _Folder,
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Seal the keys of a folder that an earlier version made, which left them in clear.

    Example: secure-fedhelp coordinator seal-keys --folder coordinator
    """
    from secure_fedhelp.coordinator.setup import seal_coordinator
    from secure_fedhelp.identity.secret_source import SecretSource

    sealed = seal_coordinator(folder, SecretSource(key_file, passphrase, passphrase_file))
    Console(highlight=False, soft_wrap=True).print(sealed_report(folder, sealed), markup=False)
