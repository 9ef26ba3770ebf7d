"""Making a hospital's folder: lock, keys, certificate request, and the two files the hospital owns, with defaults."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, StorageError, UnlockSecretMissing
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.certificates import make_request, spiffe_uri
from secure_fedhelp.identity.clear_keys import seal_clear_keys
from secure_fedhelp.identity.lock import establish_lock, open_lock
from secure_fedhelp.identity.private_files import read_public
from secure_fedhelp.identity.revocation import KEPT_FILE, LIST_FILE
from secure_fedhelp.identity.sealed_files import write_key
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.sealing import SealingKey
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import REVOCATIONS, SETTINGS, read_bounded

_CONFIG = """\
# This hospital's configuration. Paths are relative to this folder; unknown keys are refused.
name = "{name}"
consortium = "{consortium}"
records = "data/records.csv"
public = "public/public.npz"
# The privacy ledger. Studies on the same patients must share one: 'hospital init --like' another study's folder.
ledger = {ledger}
# test = "data/test.npz"                    # records set aside for evaluation, read here only
# held_out = "data/held-out.csv"            # records trained on by nobody, for plans that measure the model
# foundation_url = "https://teacher.example"   # an Open Inference Protocol v2 server, asked once, public inputs only
# [[foundations]]                           # in its place one or two models, each with its url, its name and more:
# url = "https://teacher.example"
# model = "teacher"
# answers = "probabilities"                 # if the server answers after a softmax; absent: logits
# largest_batch = 8                         # records in one question
# ca_file = "keys/teacher-ca.crt"           # the authority of the server's certificate, if it is your own
# token_file = "keys/teacher.token"         # a bearer token, in a file for its owner only (chmod 600)
# [reading]                                 # how your files are written (docs/data.md); nothing of it is guessed
# separator = ";"                           # of CSV files: "," if absent; "tab" or "bar"
# decimal = ","                             # "." if absent; with thousands = "." the text 1.234,5 is a number too
# missing = ["NA", "-999"]                  # what stands for a missing value, beside an empty cell and ?
# spellings = "refuse"                      # a patient in two spellings, 17 and 0017: "merge" if absent
"""

_POLICY = """\
# The site policy: this hospital's own limits. The client refuses a plan that breaks one of them.
largest_epsilon = 3.0
largest_delta = 1e-3
# lifetime_epsilon = 3.0                    # over all studies on the same patients; absent: largest_epsilon
unit = "patient"
patient_columns = ["patient_id"]            # the columns of your files that name the patient, whatever a plan says
smallest_cohort = 3
channels_allowed = ["model-update", "public-logits", "metrics"]
# models_allowed = ["mlp-*", "package.module:function"]   # networks; imported code by its whole path only
foundation_endpoints = []
metrics = "local"                           # or "noised", "pooled", "research": see docs/privacy.md
"""


def init_hospital(
    root: Path,
    consortium: str,
    name: str,
    source: SecretSource = USUAL,
    *,
    renew: bool = False,
    like: Path | None = None,
    like_source: SecretSource = USUAL,
) -> Path:
    """Create or complete a hospital's folder and return the path of the certificate request (``keys/tls.csr``).

    Private keys are made here, sealed under the secret that ``source`` gives, and never leave. With ``renew`` a new
    request is made for the same TLS key, so that the old certificate serves until the new one is put in its place;
    signing and sealing keys stay, because the other hospitals know them. ``like`` is this hospital's folder of an
    earlier study, opened by ``like_source``: the new one signs with the same key and goes on with the same ledger and
    policy, and in the same consortium trusts the same authority. Its certificate is a second one. Raises
    InvalidConfiguration if the folder already has keys and ``renew`` is not set, and what
    :func:`secure_fedhelp.identity.lock.establish_lock` raises.
    """
    spiffe_uri(consortium, "hospital", name)  # a malformed name is refused before anything is written
    folder = HospitalFolder(root)
    if (folder.keys / "tls.key").exists() and not renew:
        raise InvalidConfiguration(
            f"{folder.keys} already holds keys", "Use --renew for a new certificate request, or another folder."
        )
    earlier = None if like is None else _earlier(like, name, like_source)
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for sub in (folder.keys, root / "data", root / "public"):
            sub.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot create {root}: {error.strerror}", "Choose a folder you may write.") from error
    unlock = establish_lock(root, source)
    request = make_request(folder.keys, consortium, "hospital", name, unlock)
    if not (folder.keys / "signing.key").exists():
        signing = SigningKey.generate() if earlier is None else earlier.signing
        signing.save(folder.keys / "signing.key", unlock)
    if not (folder.keys / "sealing.key").exists():
        write_key(folder.keys / "sealing.key", SealingKey.generate().to_private_bytes(), unlock)
    unlock.wipe()
    ledger = "ledger.jsonl" if earlier is None else str(earlier.ledger)
    config = _CONFIG.format(name=name, consortium=consortium, ledger=json.dumps(ledger, ensure_ascii=False))
    texts = (("hospital.toml", config), ("policy.toml", _POLICY if earlier is None else earlier.policy))
    trusted = {} if earlier is None or earlier.consortium != consortium else earlier.trusted
    for file, content in (*((name, text.encode()) for name, text in texts), *trusted.items()):
        if not (root / file).exists():
            write_atomic(root / file, content)
    return request


@dataclass(frozen=True)
class _Earlier:
    """What a folder for another study takes over."""

    signing: SigningKey
    ledger: Path
    policy: str
    consortium: str
    #: The authority's certificate and revocation list, as far as they are there, by their paths in a folder.
    trusted: dict[str, bytes]


def _earlier(root: Path, name: str, source: SecretSource) -> _Earlier:
    folder = HospitalFolder(root)
    config = folder.config()
    if config.name != name:
        raise InvalidConfiguration(f"{root} is the folder of {config.name}, not of {name}", "Name your own folder.")
    folder.policy()  # a malformed one is not handed on
    try:
        unlock = open_lock(root, source)
    except UnlockSecretMissing as error:
        raise UnlockSecretMissing(
            error.message,
            f"Nothing was made. Say with --like-key-file where the key file of {root} is; a passphrase of that folder "
            "is asked for at the terminal, or comes from SECURE_FEDHELP_PASSPHRASE.",
        ) from error
    signing = SigningKey.load(folder.keys / "signing.key", unlock)
    unlock.wipe()
    files = [folder.keys / name for name in ("ca.crt", LIST_FILE, KEPT_FILE)]
    return _Earlier(
        signing=signing,
        ledger=(root / config.ledger).resolve(),
        policy=read_bounded(root / "policy.toml", SETTINGS).decode("utf-8"),
        consortium=config.consortium,
        trusted={f"keys/{file.name}": read_public(file, kind=REVOCATIONS) for file in files if file.exists()},
    )


def seal_hospital(root: Path, source: SecretSource = USUAL) -> list[Path]:
    """Seal what an earlier version left in clear in a hospital's folder, keys and state; the files that were sealed.

    Each file is replaced atomically; run again after a crash, it goes on. The hospital must not be running.
    """
    folder = HospitalFolder(root)
    unlock, sealed = seal_clear_keys(root, folder.keys, ("tls.key", "signing.key", "sealing.key"), source)
    vault = Vault(folder.state, unlock)
    vault.clear_leftovers()  # of an earlier version's writes, in clear
    sealed += vault.seal_clear_files()
    unlock.wipe()
    return sealed
