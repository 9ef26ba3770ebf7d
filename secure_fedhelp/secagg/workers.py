"""A cipher that shares its ciphertexts out among processes: SEAL holds the interpreter lock, so threads gain nothing.

Each worker is a fresh interpreter with one thread, started as a program and not forked: a hospital has gRPC's threads
and torch. What it needs comes through a socket pair whose other end only this process holds: the study key once, then
for each job the descriptors of two anonymous memory files, one to read from and one to write to. So no key or value
is in an argument, in the environment or on a disk, and nothing has to be cleaned up: memory files vanish with the last
process that has them open, and a worker ends when its socket does, however this process ended.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import weakref
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.secagg.ckks import Cipher, Slots
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import Residues
from secure_fedhelp.secagg.profiles import Profile, profile

#: Below so many values a process gains too little to be worth starting (docs/decisions/0005).
SMALLEST_SHARED: Final = 2**17
_LARGEST_MESSAGE: Final = 2**20
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class CipherPool(Cipher):
    """A :class:`Cipher` with ``processes`` workers for large vectors; small ones are done here, and start none.

    Use it as a context manager or :meth:`close` it; it also ends with the object. For one thread, like a cipher.
    """

    def __init__(self, profile: Profile, key: StudyKey, processes: int = 2) -> None:
        super().__init__(profile, key)
        self._processes = processes
        self._workers: list[_Worker] = []
        self._ending = weakref.finalize(self, _end, self._workers)

    def start(self, length: int) -> None:
        """Start the workers now if vectors of ``length`` values will need them, and do not wait for them.

        They need half a second to load; the first large vector starts them otherwise, and waits. Raises
        KeyCeremonyFailed if the key was wiped.
        """
        if not self._shared(self.profile.ciphertexts(length)) or self._workers:
            return
        try:
            self._workers.extend(_Worker(self.profile, self._key) for _ in range(self._processes))
        except OSError:  # the machine has no room for another process
            self.close()

    def close(self) -> None:
        """End the workers. The pool can still be used, in this process."""
        self._processes = 0
        _end(self._workers)

    def forget(self) -> None:
        """As :meth:`Cipher.forget`; the workers end."""
        self.close()
        super().forget()

    def __enter__(self) -> CipherPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encrypt_slots(self, slots: Slots, seed: bytes, first: int = 0) -> Residues:
        """As :meth:`Cipher.encrypt_slots`."""
        shape = len(slots), len(self.profile.moduli), self.profile.ring_degree
        found = self._share_out("encrypt", slots, (seed,), first, np.uint64, shape)
        return super().encrypt_slots(slots, seed, first) if found is None else found

    def decrypt_slots(self, residues: Residues, seeds: tuple[bytes, ...], first: int = 0) -> Slots:
        """As :meth:`Cipher.decrypt_slots`."""
        shape = len(residues), self.profile.ring_degree // 2
        found = self._share_out("decrypt", residues, seeds, first, np.complex128, shape)
        return super().decrypt_slots(residues, seeds, first) if found is None else found

    def _shared(self, ciphertexts: int) -> bool:
        return self._processes > 1 and ciphertexts * self.profile.ring_degree >= SMALLEST_SHARED

    def _share_out(
        self, work: str, given: NDArray[Any], seeds: tuple[bytes, ...], first: int, dtype: Any, shape: tuple[int, ...]
    ) -> NDArray[Any] | None:
        """What the workers made of ``given``; None if it is to be done here."""
        self.start(len(given) * self.profile.ring_degree)
        if not self._shared(len(given)):
            return None
        source, target = _Shared(given.dtype, given.shape), _Shared(np.dtype(dtype), shape)
        source.array[:] = given
        edges = [len(given) * i // len(self._workers) for i in range(len(self._workers) + 1)]
        try:
            for worker, start, stop in zip(self._workers, edges, edges[1:], strict=False):
                job = {"work": work, "seeds": [s.hex() for s in seeds], "first": first, "part": [start, stop]}
                worker.give({**job, "count": len(given)}, source, target)
            for worker in self._workers:
                worker.wait()
        except (OSError, EOFError):
            # A worker was killed, say for want of memory. From now on everything is done in this process.
            self.close()
            return None
        return target.array


class _Worker:
    """One process and our end of its socket."""

    def __init__(self, profile: Profile, key: StudyKey) -> None:
        secret = key.to_bytes()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.process = _program(theirs.fileno())
            except OSError:
                self._socket.close()
                raise
        self._socket.send(profile.name.encode())
        self._socket.send(secret)

    def give(self, job: dict[str, Any], source: _Shared, target: _Shared) -> None:
        socket.send_fds(self._socket, [json.dumps(job).encode()], [source.descriptor, target.descriptor])

    def wait(self) -> None:
        """Until the job is done; EOFError if the process died instead."""
        if not self._socket.recv(1):
            raise EOFError("a worker died")

    def end(self) -> None:
        self._socket.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _program(descriptor: int) -> subprocess.Popen[bytes]:
    """This very interpreter, with one descriptor of ours and the standard streams."""
    return subprocess.Popen(  # noqa: S603  a program of ours, and no shell
        [sys.executable, "-P", "-c", f"from secure_fedhelp.secagg.workers import serve; serve({descriptor})"],
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        # Ctrl-C goes to a terminal's whole group; a worker ends with its socket and not in the middle.
        start_new_session=True,
    )


def _end(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


class _Shared:
    """An array in an anonymous memory file, which lives as long as anybody has it open or mapped."""

    def __init__(self, dtype: Any, shape: tuple[int, ...], descriptor: int | None = None) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if descriptor is None:
            descriptor = os.memfd_create("secure-fedhelp", os.MFD_CLOEXEC)
            os.truncate(descriptor, size)
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self.array: NDArray[Any] = np.ndarray(shape, dtype, mmap.mmap(descriptor, size))


def serve(descriptor: int) -> None:
    """A worker's whole life: a key, then jobs, until the socket ends."""
    with socket.socket(fileno=descriptor) as parent:
        name, data = parent.recv(_LARGEST_MESSAGE).decode(), parent.recv(_LARGEST_MESSAGE)
        if not data:
            return
        chosen = profile(name)
        cipher = Cipher(chosen, StudyKey.from_bytes(chosen, data))
        del data
        while True:
            message, descriptors, _, _ = socket.recv_fds(parent, _LARGEST_MESSAGE, 2)
            if not message:
                return
            _do(cipher, json.loads(message), *descriptors)
            try:
                parent.send(b"\1")
            except OSError:
                return


def _do(cipher: Cipher, job: dict[str, Any], source: int, target: int) -> None:
    p, count, (start, stop) = cipher.profile, job["count"], job["part"]
    slots, residues = (count, p.ring_degree // 2), (count, len(p.moduli), p.ring_degree)
    seeds, first = [bytes.fromhex(s) for s in job["seeds"]], job["first"] + start
    if job["work"] == "encrypt":
        given, made = _Shared(np.complex128, slots, source), _Shared(np.uint64, residues, target)
        made.array[start:stop] = cipher.encrypt_slots(given.array[start:stop], seeds[0], first)
    else:
        given, made = _Shared(np.uint64, residues, source), _Shared(np.complex128, slots, target)
        made.array[start:stop] = cipher.decrypt_slots(given.array[start:stop], tuple(seeds), first)
