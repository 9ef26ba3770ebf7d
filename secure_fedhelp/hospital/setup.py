"""Making a hospital's folder: lock, keys, certificate request, and the two files the hospital owns, with defaults."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.certificates import make_request, spiffe_uri
from secure_fedhelp.identity.clear_keys import seal_clear_keys
from secure_fedhelp.identity.lock import establish_lock
from secure_fedhelp.identity.sealed_files import write_key
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.study.files import write_atomic

_CONFIG = """\
# This hospital's configuration. Paths are relative to this folder; unknown keys are refused.
name = "{name}"
consortium = "{consortium}"
records = "data/records.csv"
public = "public/public.npz"
# test = "data/test.npz"                    # records set aside for evaluation, read here only
# held_out = "data/held-out.csv"            # records trained on by nobody, for plans that measure the model
# foundation_url = "https://teacher.example"   # an Open Inference Protocol v2 server, asked once, public inputs only
"""

_POLICY = """\
# The site policy: this hospital's own limits. The client refuses a plan that breaks one of them.
largest_epsilon = 3.0
largest_delta = 1e-3
# lifetime_epsilon = 3.0                    # over all studies on the same patients; absent: largest_epsilon
unit = "patient"
smallest_cohort = 3
channels_allowed = ["model-update", "public-logits", "metrics"]
foundation_endpoints = []
metrics = "local"                           # or "noised", "pooled", "research": see docs/privacy.md
"""


def init_hospital(root: Path, consortium: str, name: str, source: SecretSource = USUAL, *, renew: bool = False) -> Path:
    """Create or complete a hospital's folder and return the path of the certificate request (``keys/tls.csr``).

    Private keys are made here, sealed under the secret that ``source`` gives, and never leave. With ``renew`` a new
    request is made for the same TLS key, so that the old certificate serves until the new one is put in its place;
    signing and sealing keys stay, because the other hospitals know them. Raises InvalidConfiguration if the folder
    already has keys and ``renew`` is not set, and what :func:`secure_fedhelp.identity.lock.establish_lock` raises.
    """
    spiffe_uri(consortium, "hospital", name)  # a malformed name is refused before anything is written
    folder = HospitalFolder(root)
    if (folder.keys / "tls.key").exists() and not renew:
        raise InvalidConfiguration(
            f"{folder.keys} already holds keys", "Use --renew for a new certificate request, or another folder."
        )
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for sub in (folder.keys, root / "data", root / "public"):
            sub.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot create {root}: {error.strerror}", "Choose a folder you may write.") from error
    unlock = establish_lock(root, source)
    request = make_request(folder.keys, consortium, "hospital", name, unlock)
    if not (folder.keys / "signing.key").exists():
        SigningKey.generate().save(folder.keys / "signing.key", unlock)
    if not (folder.keys / "sealing.key").exists():
        write_key(folder.keys / "sealing.key", SealingKey.generate().to_private_bytes(), unlock)
    unlock.wipe()
    for file, text in (("hospital.toml", _CONFIG.format(name=name, consortium=consortium)), ("policy.toml", _POLICY)):
        if not (root / file).exists():
            write_atomic(root / file, text.encode())
    return request


def seal_hospital(root: Path, source: SecretSource = USUAL) -> list[Path]:
    """Seal what an earlier version left in clear in a hospital's folder, keys and state; the files that were sealed.

    Each file is replaced atomically; run again after a crash, it goes on. The hospital must not be running.
    """
    folder = HospitalFolder(root)
    unlock, sealed = seal_clear_keys(root, folder.keys, ("tls.key", "signing.key", "sealing.key"), source)
    sealed += Vault(folder.state, unlock).seal_clear_files()
    unlock.wipe()
    return sealed
