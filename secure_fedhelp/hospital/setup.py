"""Making a hospital's folder: keys, certificate request, and the two files the hospital owns, with their defaults."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.identity.certificates import make_request
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
# foundation_url = "https://teacher.example"   # an Open Inference Protocol v2 server, asked once, public inputs only
"""

_POLICY = """\
# The site policy: this hospital's own limits. The client refuses a plan that breaks one of them.
largest_epsilon = 3.0
largest_delta = 1e-3
unit = "patient"
smallest_cohort = 3
channels_allowed = ["model-update", "public-logits"]
foundation_endpoints = []
metrics = "local"
"""


def init_hospital(root: Path, consortium: str, name: str, *, renew: bool = False) -> Path:
    """Create or complete a hospital's folder and return the path of the certificate request (``keys/tls.csr``).

    Private keys are made here and never leave. With ``renew`` a new request is made for the same TLS key, so that the
    old certificate serves until the new one is put in its place; signing and sealing keys stay, because the other
    hospitals know them. Raises InvalidConfiguration if the folder already has keys and ``renew`` is not set.
    """
    folder = HospitalFolder(root)
    if (folder.keys / "tls.key").exists() and not renew:
        raise InvalidConfiguration(
            f"{folder.keys} already holds keys", "Use --renew for a new certificate request, or another folder."
        )
    try:
        folder.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        for sub in ("data", "public"):
            (root / sub).mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(
            f"cannot create {folder.keys}: {error.strerror}", "Choose a folder you may write."
        ) from error
    request = make_request(folder.keys, consortium, "hospital", name)
    if not (folder.keys / "signing.key").exists():
        SigningKey.generate().save(folder.keys / "signing.key")
    if not (folder.keys / "sealing.key").exists():
        write_atomic(folder.keys / "sealing.key", SealingKey.generate().to_private_bytes(), 0o600)
    for file, text in (("hospital.toml", _CONFIG.format(name=name, consortium=consortium)), ("policy.toml", _POLICY)):
        if not (root / file).exists():
            write_atomic(root / file, text.encode())
    return request
