"""Our round in one process, without transport: a hospital's upload, the coordinator's work, a hospital's download.

The steps are those of hospital/contribution.py and coordinator/spool.py on bodies in memory: only the disk is left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from secure_fedhelp import __version__
from secure_fedhelp.identity.signing import ED25519, SigningKey, verify
from secure_fedhelp.research.bench.cohort import SIGNATURE_BYTES, Keys, MaskedCohort
from secure_fedhelp.research.bench.material import Material, Vector
from secure_fedhelp.research.bench.results import OURS
from secure_fedhelp.research.bench.settings import Setting
from secure_fedhelp.research.bench.stopwatch import Round, Stopwatch
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.packing import SumAccumulator, check_body, pack_body, split_sum, unpack_residues
from secure_fedhelp.secagg.profiles import SEED_BYTES
from secure_fedhelp.secagg.sanitise import sanitise
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.wire.messages import HEADER_CONTEXT, TRANSCRIPT_CONTEXT


def our_versions() -> dict[str, str]:
    return {"secure-fedhelp": __version__, "tenseal": TENSEAL_VERSION, "numpy": version("numpy")}


@dataclass(frozen=True)
class _Signed:
    """An upload as the coordinator gets it."""

    header: bytes
    signature: bytes
    body: bytes
    body_sha256: str


class SealedRounds:
    """Rounds of one profile; ``material``, and the ``cohort`` of masked rounds, are shared and not owned."""

    def __init__(self, material: Material, cohort: MaskedCohort | None) -> None:
        self._material, self._cohort = material, cohort
        self._signing = {name: SigningKey.generate().of(ED25519) for name in material.names}
        self._coordinator = SigningKey.generate().of(ED25519)
        self._others = [self._sign(number, self._other_body(number)) for number in range(1, material.hospitals)]

    @property
    def setting(self) -> Setting:
        m = self._material
        return Setting(
            OURS, m.profile.name, self._cohort.masks if self._cohort else "none", "none", m.values, m.hospitals
        )

    def measure(self) -> Round:
        watch, material, cohort = Stopwatch(), self._material, self._cohort
        mine = self._upload(watch)
        uploads = [mine, *self._others]
        data, entry = self._sum(watch, uploads)
        total, released = self._open(watch, uploads, data, entry)
        return Round(
            seconds=watch.seconds,
            up_bytes=len(mine.header) + len(mine.signature) + len(mine.body) + (cohort.bytes_up if cohort else 0),
            down_bytes=len(entry) + SIGNATURE_BYTES + len(data) + (cohort.bytes_down if cohort else 0),
            max_error=float(np.abs(total - material.truth).max()),
            sanitised_error=None if released is None else float(np.abs(released - material.truth).max()),
            contributions=len(material.bodies),
            versions=our_versions(),
        )

    # -- a hospital, up -----------------------------------------------------------------------------------------------

    def _upload(self, watch: Stopwatch) -> _Signed:
        material = self._material
        with watch.stage("upload.encrypt"):
            seed, residues = material.cipher.encrypt_residues(material.contributions[0])
        if self._cohort is not None:
            keys = self._cohort.agree_on_masks(watch)
            with watch.stage("upload.mask"):
                add_expanded(residues, material.profile, keys.plus, keys.minus)
        with watch.stage("upload.pack"):
            body = pack_body(material.profile, seed, residues)
        with watch.stage("upload.sign"):
            return self._sign(0, body)

    def _sign(self, number: int, body: bytes) -> _Signed:
        name, digest = self._material.names[number], sha256_hex(body)
        header = canonical_bytes(
            {
                "body_bytes": len(body),
                "body_sha256": digest,
                "hospital": name,
                "profile": self._material.profile.name,
                "seeds_sha256": sha256_hex(body[:SEED_BYTES]),
                "tenseal": TENSEAL_VERSION,
            }
        )
        return _Signed(header, self._signing[name].sign(HEADER_CONTEXT, header), body, digest)

    def _other_body(self, number: int) -> bytes:
        """The body of another hospital; the last one's carries the masks of all others (see MaskedCohort)."""
        material = self._material
        body = material.body(number)
        if self._cohort is None or number != material.hospitals - 1:
            return body
        return masked_body(material, body, self._cohort.others_masks)

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def _sum(self, watch: Stopwatch, uploads: list[_Signed]) -> tuple[bytes, bytes]:
        """The published sum and the signed entry that names it."""
        material = self._material
        if self._cohort is not None:
            self._cohort.check_statements(watch)
        with watch.stage("coordinator.check"):
            for name, upload in zip(material.names, uploads, strict=True):
                verify(self._signing[name].public_hex, HEADER_CONTEXT, upload.header, upload.signature)
                _require_hash(upload.body, upload.body_sha256)
                check_body(material.profile, material.values, upload.body)
        accumulator = SumAccumulator(material.profile, material.values)
        with watch.stage("coordinator.add"):
            for name, upload in zip(material.names, uploads, strict=True):
                accumulator.add(name, upload.body)
        if self._cohort is not None:
            bodies = {name: upload.body_sha256 for name, upload in zip(material.names, uploads, strict=True)}
            plus, minus = self._cohort.reveal(watch, bodies)
            with watch.stage("coordinator.unmask"):
                add_expanded(accumulator.total, material.profile, plus, minus)
        with watch.stage("coordinator.publish"):
            data = accumulator.finish()
            headers = [upload.header.decode() for upload in uploads]
            signatures = [upload.signature.hex() for upload in uploads]
            sha256 = sha256_hex(data)
            entry = canonical_bytes({"cohort": headers, "signatures": signatures, "sum_sha256": sha256})
            self._coordinator.sign(TRANSCRIPT_CONTEXT, entry)
        return data, entry

    # -- a hospital, down ---------------------------------------------------------------------------------------------

    def _open(
        self, watch: Stopwatch, uploads: list[_Signed], data: bytes, entry: bytes
    ) -> tuple[Vector, Vector | None]:
        """The decrypted sum, and what is released of it if anything may be."""
        material = self._material
        signature = self._coordinator.sign(TRANSCRIPT_CONTEXT, entry)
        with watch.stage("download.verify"):
            verify(self._coordinator.public_hex, TRANSCRIPT_CONTEXT, entry, signature)
            for name, upload in zip(material.names, uploads, strict=True):
                verify(self._signing[name].public_hex, HEADER_CONTEXT, upload.header, upload.signature)
            digest = sha256_hex(data)
            _, seeds = split_sum(material.profile, material.values, material.names, data)
            for seed in seeds.values():
                sha256_hex(seed)
        with watch.stage("download.decrypt"):
            total = material.cipher.decrypt_sum(data, material.names, material.values)
        if material.flooding is None:
            return total, None
        with watch.stage("download.sanitise"):
            released = sanitise(total, material.flooding, material.key.flooding_key, digest.encode())
        return total, released


def masked_body(material: Material, body: bytes, keys: Keys) -> bytes:
    """A body with masks on its residues."""
    chosen = material.profile
    residues = unpack_residues(chosen, memoryview(body)[SEED_BYTES:])
    residues = residues.reshape(-1, len(chosen.moduli), chosen.ring_degree)
    add_expanded(residues, chosen, *keys)
    return pack_body(chosen, body[:SEED_BYTES], residues)


def _require_hash(body: bytes, expected: str) -> None:
    if hashlib.sha256(body).hexdigest() != expected:
        raise AssertionError("a benchmark's own body changed in memory")
