"""SEAL's saved forms as numpy records, and the memory file through which SEAL saves and loads. No TenSEAL here.

SEAL's Python bindings give bulk access to coefficients through ``save`` and ``load`` alone, which take a path. Two
consequences shape this file:

* Secrets pass through an anonymous memory file, never the disk (swap aside, as for all memory).
* SEAL's C++ parser must never see bytes from the network. Everything loaded is laid out here, from constants and from
  residues and seeds that ``packing`` has checked; everything saved is compared with the same constants.

A saved object is a 16-byte header (magic, header size, version, compression, total size) and its fields, which SEAL
compresses with zstd when it saves and accepts uncompressed when it loads. Arrays and seeds inside carry a header of
their own.
"""

from __future__ import annotations

import os
import struct
import weakref
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from secure_fedhelp.errors import StorageError, VersionMismatch
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile

_MAGIC, _HEADER_BYTES, _SEAL_VERSION = 0xA15E, 16, (4, 3)
_PLAIN, _ZSTD = 0, 2
#: SEAL's number for the Blake2xb generator that expands a seed.
_BLAKE2XB = 1

ParmsId = list[int]


def _header(content_bytes: int, compression: int = _PLAIN) -> bytes:
    return struct.pack("<HBBBBHQ", _MAGIC, _HEADER_BYTES, *_SEAL_VERSION, compression, 0, _HEADER_BYTES + content_bytes)


class SavedForm:
    """One kind of object in SEAL's form: constant fields, and ``residues`` (and ``seed``) to fill in or read.

    Setting the attributes' elements writes into :attr:`buffer`, which is a complete file for SEAL to load.
    """

    def __init__(self, fields: list[tuple[Any, ...]], constants: dict[str, object]) -> None:
        self._dtype = np.dtype(fields)
        self.buffer = bytearray(_header(self._dtype.itemsize) + bytes(self._dtype.itemsize))
        record = np.frombuffer(self.buffer, dtype=self._dtype, offset=_HEADER_BYTES)
        for name, value in constants.items():
            record[name] = value
        self._constants = bytes(self.buffer[_HEADER_BYTES:])
        self.residues: NDArray[np.uint64] = record["residues"][0]
        #: Empty where the form has no seed.
        self.seed: NDArray[np.uint8] = record["seed"][0] if "seed" in constants else np.empty(0, dtype=np.uint8)

    def read(self, saved: bytes) -> Any:
        """The record in what SEAL saved (``record["residues"]``, ``record["seed"]``); VersionMismatch if a constant
        of the form differs, so that another SEAL's bytes are never taken for ours."""
        if saved[:_HEADER_BYTES] != _header(len(saved) - _HEADER_BYTES, _ZSTD):
            raise VersionMismatch("the SEAL library saves in another form than the pinned version")
        content = zstandard.ZstdDecompressor().decompress(saved[_HEADER_BYTES:], max_output_size=len(self._constants))
        if len(content) != len(self._constants):
            raise VersionMismatch(f"the SEAL library saved {len(content)} bytes, not {len(self._constants)}")
        record = np.frombuffer(content, dtype=self._dtype)[0]
        rest = record.copy()
        rest["residues"] = 0
        if self.seed.size:
            rest["seed"] = 0
        if rest.tobytes() != self._constants:
            raise VersionMismatch("the SEAL library's saved fields differ from the pinned version's")
        return record


def _array(residues: int) -> tuple[list[tuple[Any, ...]], dict[str, object]]:
    fields = [("array_header", "V16"), ("array_count", "<u8"), ("residues", "<u8", (residues,))]
    return fields, {"array_header": np.void(_header(8 + 8 * residues)), "array_count": residues, "residues": 0}


def plaintext_form(profile: Profile, parms_id: ParmsId, scale: float) -> SavedForm:
    """A plaintext polynomial in NTT form; a secret key is one with scale 1."""
    fields, constants = _array(profile.ring_degree)
    return SavedForm(
        [("parms_id", "<u8", (4,)), ("degree", "<u8"), ("scale", "<f8"), *fields],
        {"parms_id": parms_id, "degree": profile.ring_degree, "scale": scale, **constants},
    )


def ciphertext_form(profile: Profile, parms_id: ParmsId, *, seeded: bool, ntt: bool = True) -> SavedForm:
    """A ciphertext (c0, c1): ``residues`` is c0, with ``seed`` in place of c1; or, not ``seeded``, c0 and c1."""
    fields, constants = _array(profile.ring_degree * (1 if seeded else 2))
    if seeded:
        fields += [("seed_header", "V16"), ("generator", "u1"), ("seed", "u1", (SEED_BYTES,))]
        constants |= {"seed_header": np.void(_header(1 + SEED_BYTES)), "generator": _BLAKE2XB, "seed": 0}
    return SavedForm(
        [
            *[("parms_id", "<u8", (4,)), ("ntt", "u1"), ("polynomials", "<u8"), ("degree", "<u8"), ("primes", "<u8")],
            *[("scale", "<f8"), ("correction", "<u8")],  # the correction factor belongs to another scheme: always 1
            *fields,
        ],
        {
            **{"parms_id": parms_id, "ntt": ntt, "polynomials": 2, "degree": profile.ring_degree, "primes": 1},
            **{"scale": 2.0**profile.scale_bits, "correction": 1},
            **constants,
        },
    )


class MemoryFile:
    """An anonymous file in memory, for one thread of one process. Linux only, like the memory file itself."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise StorageError("this system has no anonymous memory files", "Run on Linux; keys must not touch a disk.")
        self._descriptor = os.memfd_create("secure-fedhelp", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._descriptor}"
        weakref.finalize(self, os.close, self._descriptor)

    def save(self, value: Any) -> bytes:
        """The bytes that a SEAL object saves."""
        value.save(self._path)
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def load(self, value: Any, context: Any, form: SavedForm) -> None:
        """Let a SEAL object load what ``form`` holds."""
        os.pwrite(self._descriptor, form.buffer, 0)
        os.ftruncate(self._descriptor, len(form.buffer))
        value.load(context, self._path)
