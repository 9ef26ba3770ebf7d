"""``secure-fedhelp consortium``: for the administrator of a consortium's certificate authority."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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
from secure_fedhelp.errors import StorageError
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.authority import Authority, AuthorityRecord
from secure_fedhelp.identity.certificates import authority_uri, certificate_fingerprint, request_fingerprint
from secure_fedhelp.identity.clear_keys import seal_clear_keys
from secure_fedhelp.identity.issued import IssuedCertificate
from secure_fedhelp.identity.lock import establish_lock, open_lock, opened_by
from secure_fedhelp.identity.private_files import read_public
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.study.files import write_atomic

app = typer.Typer(
    help="Run a consortium's certificate authority: sign members' requests, revoke certificates.\n\n"
    "Example: secure-fedhelp consortium init ~/authority --name north",
    no_args_is_help=True,
)

AuthorityFolder = Annotated[Path, typer.Option("--authority", help="The authority's folder, made by 'init'.")]


def _now() -> float:
    return time.time()


def _say(*lines: str) -> None:
    """Print lines as they are: a fingerprint or a path must not be broken or read as markup."""
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)


@app.command(epilog="Example: secure-fedhelp consortium init ~/authority --name north")
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, on a machine that needs no network.")],
    name: Annotated[str, typer.Option(help="The consortium's name, as in every study plan.")],
    days: Annotated[int, typer.Option(help="Days until the authority itself ends.")] = 3650,
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a consortium's certificate authority; its private key is sealed."""
    authority_uri(name)  # a malformed name is refused before anything is written
    unlock = establish_lock(folder, SecretSource(key_file, passphrase, passphrase_file))
    authority = Authority.create(folder, name, _now(), days, unlock)
    _say(
        f"Made the authority of consortium {name} in {folder}; {opened_by(folder)}.",
        "Fingerprint of ca.crt:",
        certificate_fingerprint(authority.ca_pem),
        "Next: send ca.crt and revoked.crl to every member, and read them the fingerprint by telephone.",
        f"Keep {folder / 'ca.key'} on this machine only. One copy of the folder belongs into a safe, and what opens it "
        "into another.",
    )


@app.command(
    epilog="Example: secure-fedhelp consortium sign north-clinic.csr --authority ~/authority --role hospital "
    "--name north-clinic --out north-clinic.crt"
)
def sign(
    request: Annotated[Path, typer.Argument(help="The member's tls.csr.")],
    authority: AuthorityFolder,
    role: Annotated[str, typer.Option(help="hospital or coordinator.")],
    name: Annotated[str, typer.Option(help="The member's name, as in every study plan.")],
    out: Annotated[Path, typer.Option(help="Where to write the certificate.")],
    dns: Annotated[
        list[str] | None, typer.Option(help="Coordinator only: host name or IP that hospitals connect to; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days until the certificate ends.")] = 365,
    renew: Annotated[bool, typer.Option("--renew", help="The member already has a valid certificate.")] = False,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign a member's certificate request."""
    hint = "Check the path of the request."
    csr_pem = read_public(request, hint)
    # Signing is recorded, so a place that cannot be written must be found out before.
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise StorageError(f"cannot write {out}: no such folder, or it is read-only", "Choose another --out.")
    certificate = _opened(authority, key_file, passphrase_file).sign(
        csr_pem, role, name, _now(), days, dns or (), renew=renew
    )
    write_atomic(out, certificate)
    _say(
        f"Signed a certificate of {role} {name} for {days} days: {out}",
        "Fingerprint of the member's key:",
        request_fingerprint(csr_pem),
        f"Next: telephone {name} and compare it with the fingerprint of the request that was sent.",
        f"Only then send {out}. It goes beside the member's tls.key as tls.crt, with ca.crt and revoked.crl.",
        "If it differs, somebody else made the request; withdraw the certificate:",
        f"secure-fedhelp consortium revoke {name} --authority {authority}",
    )


@app.command(epilog="Example: secure-fedhelp consortium revoke north-clinic --authority ~/authority")
def revoke(
    name: Annotated[str, typer.Argument(help="The member whose certificates are withdrawn.")],
    authority: AuthorityFolder,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Revoke every certificate of a member (a lost or stolen key, or a member that left)."""
    revoked = _opened(authority, key_file, passphrase_file).revoke(name, _now())
    _say(
        f"Revoked {len(revoked)} certificate(s) of {name}."
        if revoked
        else f"{name} has no certificate left to revoke; the list was written anew.",
        f"Next: send {authority / 'revoked.crl'} to every member, at once.",
        "It takes the place of the old one beside tls.crt; certs/README.md says which processes need a restart.",
    )


@app.command("list", epilog="Example: secure-fedhelp consortium list --authority ~/authority")
def list_certificates(authority: AuthorityFolder) -> None:
    """List every certificate ever signed. This needs no private key."""
    known, now = AuthorityRecord.read(authority), _now()
    table = Table(title=f"Consortium {known.consortium}")
    for column in ("Name", "Role", "Valid until", "State", "Serial"):
        table.add_column(column, overflow="fold")
    for certificate in known.issued():
        until, state = pem.when(certificate.not_after), _state(certificate, now)
        table.add_row(certificate.name, certificate.role, until, state, f"{certificate.serial:x}"[:8] + "…")
    Console(highlight=False).print(table)
    _say("Fingerprint of ca.crt:", certificate_fingerprint(known.ca_pem))


@app.command(
    epilog="Example: secure-fedhelp consortium rekey --authority ~/authority --new-key-file /media/stick/ca.unlock"
)
def rekey(
    authority: AuthorityFolder,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    new_key_file: OtherKeyFile = None,
    new_passphrase: OtherPassphrase = False,
    new_passphrase_file: OtherPassphraseFile = None,
) -> None:
    """Change the passphrase or key file that opens the authority's folder. The CA's key itself stays."""
    old = SecretSource(key_file, passphrase_file=passphrase_file)
    _say(rekey_folder(authority, old, new_key_file, new_passphrase, new_passphrase_file))


@app.command("seal-keys", epilog="Example: secure-fedhelp consortium seal-keys --authority ~/authority")
def seal_keys(
    authority: AuthorityFolder,
    key_file: NewKeyFile = None,
    passphrase: NewPassphrase = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Seal the private key of an authority that an earlier version made, which left it in clear."""
    source = SecretSource(key_file, passphrase, passphrase_file)
    _, sealed = seal_clear_keys(authority, authority, ("ca.key",), source)
    _say(sealed_report(authority, sealed))


def _opened(folder: Path, key_file: Path | None, passphrase_file: Path | None) -> Authority:
    return Authority.open(folder, open_lock(folder, SecretSource(key_file, passphrase_file=passphrase_file)))


def _state(certificate: IssuedCertificate, now: float) -> str:
    if certificate.revoked_at is not None:
        return f"revoked {pem.when(certificate.revoked_at)}"
    return "valid" if certificate.valid(now) else "expired"
