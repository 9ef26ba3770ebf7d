"""Child processes of a demonstration: started, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.study.reading import LOG, read_end

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: The first thing a child does: it asks the kernel to end it when its parent dies, even by kill -9 (prctl
#: PR_SET_PDEATHSIG, which outlives exec), and becomes the program. Not between fork and exec: a parent in which gRPC
#: runs would do that in a copy of its own threads' locks and files, and grpcio 1.85.1 then loses a child now and then.
_ENDS_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ProcessFailed(FedHelpError):
    """A party of the demonstration ended with an error; its last lines are in the message."""

    exit_code = 5
    default_hint = "See the party's log file in the run directory."


@dataclass
class Party:
    """One child process and the log file that takes its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 6) -> str:
        """The last lines of the log, for an error message."""
        text = read_end(self.log, LOG).decode("utf-8", errors="replace").splitlines()
        return "\n".join(text[-lines:])


@dataclass
class Parties:
    """All child processes of a run; a context manager that ends every one of them when it is left."""

    environment: dict[str, str] = field(default_factory=dict)
    #: The program and its first arguments.
    program: Sequence[str] = (sys.executable, "-m", "secure_fedhelp")
    parties: dict[str, Party] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    _handlers: dict[int, Any] = field(default_factory=dict, init=False)

    def __enter__(self) -> Parties:
        # A closed terminal or a stopped service must end the children too, as Ctrl-C does.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, _leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, name: str, arguments: list[str], log: Path) -> Party:
        """Start ``secure-fedhelp`` with ``arguments``; its output goes to ``log`` (appended: a restart keeps it)."""
        log.parent.mkdir(parents=True, exist_ok=True)
        # One thread a process: the parties share the cores, and more threads than cores is many times slower. The
        # arena limit keeps eight processes with torch small.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **self.environment}
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
                [sys.executable, "-ISc", _ENDS_WITH_PARENT, str(os.getpid()), *self.program, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self.parties[name] = Party(name, process, log)
        return self.parties[name]

    def require_running(self, name: str) -> None:
        """Raise ProcessFailed if the party has ended with an error."""
        party = self.parties[name]
        code = party.process.poll()
        if code not in (None, 0):
            raise ProcessFailed(f"{name} ended with exit code {code}:\n{party.tail()}", f"See {party.log}.")

    def running(self) -> list[str]:
        return [name for name, party in self.parties.items() if party.process.poll() is None]

    def sample_memory(self) -> int:
        """Resident memory of this process and all its parties in bytes; the largest sample is kept.

        Pages shared between processes (libraries) are counted once for each, so the figure is on the safe side.
        """
        total = sum(_resident(pid) for pid in [os.getpid(), *(p.process.pid for p in self.parties.values())])
        self.peak_memory_bytes = max(self.peak_memory_bytes, total)
        return total

    def stop_all(self, patience_seconds: float = 5.0) -> None:
        """Ask every party to end, then make it end; returns when none is left."""
        alive = [p.process for p in self.parties.values() if p.process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        for process in alive:
            try:
                process.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _leave(number: int, frame: object) -> None:
    """Unwind as for an exception, so that every child is ended on the way out."""
    raise SystemExit(128 + number)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
