"""``secure-fedhelp hospital``: what a hospital's IT staff run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secure_fedhelp.cli.hospital_data import data
from secure_fedhelp.cli.hospital_privacy import Folder, budget, policy_app
from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.cli.plain import plain
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
    help="Set up one hospital and take part in a study.\n\n"
    "Example: secure-fedhelp hospital init --folder st-anna --consortium lungs --name st-anna",
    no_args_is_help=True,
)

app.add_typer(policy_app, name="policy")
app.command("budget")(budget)
app.command("data")(data)


@app.command("init")
def init(
    folder: Folder,
    consortium: Annotated[str, typer.Option(help="Name of the consortium, as in its certificates.")],
    name: Annotated[str, typer.Option(help="This hospital's name, as in the study plan.")],
    renew: Annotated[bool, typer.Option(help="Make a new request for the same key.")] = False,
    like: Annotated[
        Path | None,
        typer.Option(
            help="This hospital's folder of an earlier study: same signing key, ledger, policy and authority."
        ),
    ] = None,
    like_key_file: Annotated[
        Path | None, typer.Option(help="The key file that opens that folder, if it is not beside it.")
    ] = None,
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make this hospital's keys, sealed, and its certificate request; private keys never leave the folder.

    Example: secure-fedhelp hospital init --folder st-anna --consortium lungs --name st-anna
    """
    from secure_fedhelp.hospital.setup import init_hospital
    from secure_fedhelp.identity.certificates import request_fingerprint
    from secure_fedhelp.identity.lock import opened_by
    from secure_fedhelp.identity.private_files import read_public
    from secure_fedhelp.identity.secret_source import SecretSource

    source, earlier = SecretSource(key_file, passphrase, passphrase_file), SecretSource(like_key_file)
    request = init_hospital(folder, consortium, name, source, renew=renew, like=like, like_source=earlier)
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"{'Kept' if renew else 'Made'} the keys of {name} in {folder / 'keys'}, sealed; {opened_by(folder)}.",
        markup=False,
    )
    fingerprint = request_fingerprint(read_public(request))
    out.print(f"Fingerprint of the request, to compare by telephone: {fingerprint}", markup=False)
    out.print(
        f"Next: send {request} to the consortium; its answer goes beside it: tls.crt, ca.crt and revoked.crl.",
        markup=False,
    )
    if like is not None:
        out.print("Under the same authority it is signed with --renew: your name is known there.", markup=False)
    out.print(f"Then: write your limits into {folder / 'policy.toml'} and your paths into hospital.toml.", markup=False)


@app.command("join")
def join(
    folder: Folder,
    plan: Annotated[Path, typer.Option(help="The study plan to sign and follow.")],
    coordinator: Annotated[str, typer.Option(help="Address of the coordinator, HOST:PORT.")],
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Check the plan against the site policy, sign it, and take part until the study ends.

    Prints the data card of its records first, which stays here. Run it again after a crash or a restart: it goes on
    where it was. A folder with a passphrase asks for it.

    Example: secure-fedhelp hospital join --folder st-anna --plan plan.toml --coordinator fed.example:8443
    """
    from secure_fedhelp.hospital.taking_part import take_part
    from secure_fedhelp.identity.secret_source import SecretSource

    out = Console(highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        out.print(plain(line), markup=False)

    source = SecretSource(key_file, passphrase_file=passphrase_file)
    with LoadingBar(out) as bar:
        take_part(folder, plan, coordinator, say, source=source, progress=bar)


@app.command("rekey")
def rekey(
    folder: Folder,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key_file: OtherKeyFile = None,
    new_passphrase: OtherPassphrase = False,
    new_passphrase_file: OtherPassphraseFile = None,
) -> None:
    """Change the passphrase or key file that opens this folder. The keys themselves stay.

    Example: secure-fedhelp hospital rekey --folder st-anna --new-key-file /etc/fedhelp/st-anna.unlock
    """
    from secure_fedhelp.identity.secret_source import SecretSource

    old = SecretSource(key_file, passphrase_file=passphrase_file)
    text = rekey_folder(folder, old, new_key_file, new_passphrase, new_passphrase_file)
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


@app.command("seal-keys")
def seal_keys(
    folder: Folder,
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Seal the keys and the state of a folder that an earlier version made, which left them in clear.

    Example: secure-fedhelp hospital seal-keys --folder st-anna
    """
    from secure_fedhelp.hospital.setup import seal_hospital
    from secure_fedhelp.identity.secret_source import SecretSource

    sealed = seal_hospital(folder, SecretSource(key_file, passphrase, passphrase_file))
    Console(highlight=False, soft_wrap=True).print(sealed_report(folder, sealed), markup=False)
