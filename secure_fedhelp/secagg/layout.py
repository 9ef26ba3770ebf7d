"""SEAL's saved forms as numpy arrays, and the memory file through which SEAL saves and loads. No TenSEAL here.

SEAL's Python bindings give bulk access to coefficients through ``save`` and ``load`` alone, which take a path. Two
consequences shape this file:

* Secrets pass through an anonymous memory file, never the disk (swap aside, as for all memory).
* SEAL's C++ parser must never see bytes from the network. Everything loaded is laid out here, from constants and from
  residues that ``packing`` has checked; everything saved is compared with the same constants.

A saved object is a 16-byte header (magic, header size, version, compression, total size) and its fields, which SEAL
compresses with zstd when it saves and accepts uncompressed when it loads. The last field is an array of residues under
a header of its own.
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

_MAGIC, _HEADER_BYTES, _SEAL_VERSION = 0xA15E, 16, (4, 3)
_PLAIN, _ZSTD = 0, 2

ParmsId = list[int]


def _header(content_bytes: int, compression: int = _PLAIN) -> bytes:
    return struct.pack("<HBBBBHQ", _MAGIC, _HEADER_BYTES, *_SEAL_VERSION, compression, 0, _HEADER_BYTES + content_bytes)


class SavedForm:
    """One kind of object in SEAL's form: constant fields, and :attr:`residues` of a given shape to fill in or read.

    Setting the elements of ``residues`` writes into :attr:`buffer`, which is a complete file for SEAL to load.
    """

    def __init__(self, fields: bytes, shape: tuple[int, ...]) -> None:
        count = int(np.prod(shape))
        self._constants = fields + _header(8 + 8 * count) + struct.pack("<Q", count)
        self._content_bytes = len(self._constants) + 8 * count
        self.buffer = bytearray(_header(self._content_bytes) + self._constants + bytes(8 * count))
        self.residues: NDArray[np.uint64] = self._array(self.buffer, _HEADER_BYTES, shape)
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, saved: bytes) -> NDArray[np.uint64]:
        """The residues in what SEAL saved; VersionMismatch if a constant of the form differs, so that another SEAL's
        bytes are never taken for ours."""
        if saved[:_HEADER_BYTES] != _header(len(saved) - _HEADER_BYTES, _ZSTD):
            raise VersionMismatch("the SEAL library saves in another form than the pinned version")
        content = self._decompressor.decompress(saved[_HEADER_BYTES:], max_output_size=self._content_bytes)
        if len(content) != self._content_bytes:
            raise VersionMismatch(f"the SEAL library saved {len(content)} bytes, not {self._content_bytes}")
        if not content.startswith(self._constants):
            raise VersionMismatch("the SEAL library's saved fields differ from the pinned version's")
        return self._array(content, 0, self.residues.shape)

    def _array(self, data: bytes | bytearray, before: int, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        return np.ndarray(shape, dtype="<u8", buffer=data, offset=before + len(self._constants))


def plaintext_form(primes: int, degree: int, parms_id: ParmsId, scale: float) -> SavedForm:
    """A plaintext polynomial in NTT form, ``residues`` [primes, N]; a secret key is one with scale 1."""
    return SavedForm(struct.pack("<4QQd", *parms_id, primes * degree, scale), (primes, degree))


def ciphertext_form(primes: int, degree: int, parms_id: ParmsId, scale: float, *, ntt: bool = True) -> SavedForm:
    """A ciphertext, ``residues`` [2, primes, N]: c0 and c1."""
    correction = 1  # belongs to another scheme
    fields = struct.pack("<4Q?QQQdQ", *parms_id, ntt, 2, degree, primes, scale, correction)
    return SavedForm(fields, (2, primes, degree))


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
