"""The options by which every command that needs private keys is told what opens the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.identity.lock import change_secret
from secure_fedhelp.identity.secret_source import SecretSource

#: For 'init' and 'seal-keys', which may choose.
NewKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help="Key file that opens the folder, made if missing. Default: FOLDER.unlock, beside the folder and never in "
        "it, since a copied folder would then carry its own key. Keep a copy in a safe, and none with the backups.",
    ),
]
NewPassphrase = Annotated[
    bool,
    typer.Option(
        "--passphrase",
        help="Open the folder by a passphrase instead: asked for at the terminal, or taken from --passphrase-file or "
        "SECURE_FEDHELP_PASSPHRASE. Nothing starts without it, not even after a power cut.",
    ),
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with the passphrase, readable by you only.")
]
#: For commands on a folder whose lock says what opens it.
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="The key file, if it is not where the folder's unlock.json says.")
]
#: For 'rekey'.
OtherKeyFile = Annotated[
    Path | None, typer.Option("--new-key-file", help="Key file to use from now on, made if missing.")
]
OtherPassphrase = Annotated[
    bool,
    typer.Option(
        "--new-passphrase",
        help="Passphrase to use from now on: asked for, or from --new-passphrase-file or "
        "SECURE_FEDHELP_NEW_PASSPHRASE.",
    ),
]
OtherPassphraseFile = Annotated[
    Path | None, typer.Option("--new-passphrase-file", help="File with the new passphrase, readable by you only.")
]


def rekey_folder(folder: Path, old: SecretSource, key_file: Path | None, passphrase: bool, file: Path | None) -> str:
    """Give the folder another secret; what to tell the person. InvalidConfiguration if none was chosen."""
    if key_file is None and not passphrase and file is None:
        raise InvalidConfiguration("no new secret was chosen", "Add --new-key-file PATH or --new-passphrase.")
    new = SecretSource(key_file, passphrase, file, variable="SECURE_FEDHELP_NEW_PASSPHRASE")
    change_secret(folder, old, new)
    return (
        f"{folder} is now opened by the new secret only. Delete the old one and its copies. Whoever holds the old one "
        "and an old copy of the folder can still open both: if that may be, make a new folder with new keys instead."
    )


def sealed_report(folder: Path, sealed: list[Path]) -> str:
    """What 'seal-keys' did, for a person."""
    if not sealed:
        return f"Everything in {folder} was sealed already."
    return (
        f"Sealed {len(sealed)} file(s) in {folder}. They were in clear until now and may be in backups and in unused "
        "blocks of the disk: if somebody may have read them, make a new folder with new keys instead."
    )
