"""A real coordinator for a measurement: the product's own server as a process that ends when its standard input does.

Not started as research/processes.py starts the demo's parties: this process has gRPC connections open when the next
coordinator is started, and a child that runs Python between fork and exec would take half of gRPC with it and abort.

Run as a program: python -m secure_fedhelp.research.bench.coordinator FOLDER PLAN
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from secure_fedhelp.research.bench.memory import peak_mib
from secure_fedhelp.research.processes import ProcessFailed

_START_SECONDS, _LOOK_SECONDS = 60.0, 0.02
_TAIL = 500


class CoordinatorProcess:
    """One coordinator on a free port of this machine; a context manager that ends it."""

    def __init__(self, folder: Path, plan: Path) -> None:
        """ProcessFailed, with the last it said, if it does not start."""
        self._log, address = folder / "log.txt", folder / "address"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", __name__, str(folder), str(plan)]
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                command, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while not address.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
                self.stop()
                raise ProcessFailed(f"the coordinator of a measurement did not start: {said or 'it said nothing'}")
            time.sleep(_LOOK_SECONDS)
        self.address = address.read_text(encoding="ascii").strip()

    @property
    def peak_mib(self) -> float:
        """Peak resident memory so far: gRPC, journal and all."""
        return peak_mib(str(self._process.pid))

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> CoordinatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve_until_end_of_input(folder: Path, plan: Path) -> None:
    """The server of ``secure-fedhelp coordinator serve``; ends with standard input, so with whoever started it."""
    from secure_fedhelp.coordinator.server import serve
    from secure_fedhelp.study.plan import load_plan

    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    serve(folder, load_plan(plan), "127.0.0.1:0", time.time, lambda line: print(line, flush=True), stop=stop)


if __name__ == "__main__":
    serve_until_end_of_input(Path(sys.argv[1]), Path(sys.argv[2]))
