"""The yardstick: the same sum of the same values as float32 in clear, in one process or over the same mutual TLS.

Over gRPC a server process of its own takes streams of chunks as the coordinator does (same TLS, same options, same
chunk), adds each upload when its last byte is there, and streams the sum back. It stores nothing on the disk, signs
nothing and hides nothing.

Run as a program (the server): python -m secure_fedhelp.research.bench.plaintext FOLDER KEY-FILE VALUES HOSPITALS
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import grpc
import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import CoordinatorUnreachable
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.research.bench.material import DEVIATION, Vector, draw_contributions, true_sum
from secure_fedhelp.research.bench.memory import peak_mib
from secure_fedhelp.research.bench.results import PLAINTEXT
from secure_fedhelp.research.bench.settings import Setting
from secure_fedhelp.research.bench.stopwatch import Round, Stopwatch
from secure_fedhelp.wire.chunks import Collector, pieces
from secure_fedhelp.wire.options import channel_credentials, channel_options, server_credentials, server_options

Floats = NDArray[np.float32]

_SERVICE = "secure_fedhelp.bench.PlainSum"
_SECONDS = 600.0
#: Values are drawn as for our own rounds, within ten deviations.
_BOUND = 10 * DEVIATION


class PlaintextRounds:
    """Rounds without transport: to bytes, from bytes, add, to bytes, from bytes."""

    def __init__(self, values: int, hospitals: int) -> None:
        self._values, self._hospitals = values, hospitals
        self._contributions = draw_contributions(values, hospitals, _BOUND)
        self._truth = true_sum(self._contributions, hospitals)

    @property
    def setting(self) -> Setting:
        return Setting(PLAINTEXT, None, None, "none", self._values, self._hospitals)

    def measure(self) -> Round:
        watch = Stopwatch()
        with watch.stage("upload.pack"):
            first = self._wire(0)
        wires = [first, *(self._wire(number) for number in range(1, len(self._contributions)))]
        with watch.stage("coordinator.add"):
            total = np.zeros(self._values, dtype=np.float32)
            for number in range(self._hospitals):
                total += np.frombuffer(wires[number % len(wires)], dtype=np.float32)
        with watch.stage("coordinator.publish"):
            data = total.tobytes()
        with watch.stage("download.unpack"):
            found = np.frombuffer(data, dtype=np.float32).astype(np.float64)
        return self._round(watch, found)

    def _wire(self, number: int) -> bytes:
        return self._contributions[number % len(self._contributions)].astype(np.float32).tobytes()

    def _round(self, watch: Stopwatch, found: Vector, peak: float | None = None) -> Round:
        return Round(
            seconds=watch.seconds,
            up_bytes=4 * self._values,
            down_bytes=4 * self._values,
            max_error=float(np.abs(found - self._truth).max()),
            coordinator_peak_mib=peak,
            contributions=len(self._contributions),
            versions={"numpy": version("numpy"), "grpcio": version("grpcio")},
        )


class PlaintextWire(PlaintextRounds):
    """The same over mutual TLS, with a server process; a context manager that ends it."""

    def __init__(self, values: int, hospitals: int, server: Path, server_key: Path, client: Credentials) -> None:
        """``server`` is a coordinator's folder that ``server_key`` opens, ``client`` are a hospital's credentials."""
        super().__init__(values, hospitals)
        command = [sys.executable, "-m", __name__, str(server), str(server_key), str(values), str(hospitals)]
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101  # a pipe was asked for
        port = self._process.stdout.readline().strip()
        if not port:
            raise CoordinatorUnreachable("the plaintext server did not start", "See its own error above.")
        self._channel = grpc.secure_channel(f"127.0.0.1:{port}", channel_credentials(client), options=channel_options())
        self._upload = self._channel.stream_unary(f"/{_SERVICE}/Upload", _as_is, _as_is)
        self._download = self._channel.unary_stream(f"/{_SERVICE}/Download", _as_is, _as_is)

    @property
    def setting(self) -> Setting:
        return Setting(PLAINTEXT, None, None, "grpc", self._values, self._hospitals)

    def measure(self) -> Round:
        watch = Stopwatch()
        with watch.stage("upload.pack"):
            wire = self._wire(0)
        for number in range(self._hospitals):
            wire = wire if number == 0 else self._wire(number)
            with watch.stage("coordinator.receive"):  # and add: the answer comes when it is added
                self._upload(pieces(wire), timeout=_SECONDS)
        with watch.stage("download.receive"):
            collector = Collector(4 * self._values)
            for piece in self._download(b"", timeout=_SECONDS):
                collector.add(piece)
            data = collector.complete()
        with watch.stage("download.unpack"):
            found = np.frombuffer(data, dtype=np.float32).astype(np.float64)
        return self._round(watch, found, peak_mib(str(self._process.pid)))

    def __enter__(self) -> PlaintextWire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        assert self._process.stdin is not None  # noqa: S101  # a pipe was asked for
        self._process.stdin.close()  # which ends it
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class PlainSum:
    """The server's state: uploads are added as they come; after the last hospital's the next begins a new sum."""

    def __init__(self, values: int, hospitals: int) -> None:
        self._values, self._hospitals = values, hospitals
        self._total: Floats = np.zeros(values, dtype=np.float32)
        self._added = 0
        self._lock = threading.Lock()

    def upload(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        collector = Collector(4 * self._values)
        for piece in requests:
            collector.add(piece)
        vector = np.frombuffer(collector.complete(), dtype=np.float32)
        with self._lock:
            if self._added == self._hospitals:
                self._total, self._added = np.zeros(self._values, dtype=np.float32), 0
            self._total += vector
            self._added += 1
        return b""

    def download(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from pieces(self._total.tobytes())

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Messages are bytes as they are: nothing is parsed."""
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
                "Download": grpc.unary_stream_rpc_method_handler(self.download),
            },
        )


def _as_is(message: bytes) -> bytes:
    return message


def serve(folder: Path, key_file: Path, values: int, hospitals: int) -> None:
    """Serve on a free port of this machine, which is printed, until standard input ends."""
    unlock = open_lock(folder, SecretSource(key_file=key_file))
    credentials = load_credentials(folder, time.time(), unlock)
    unlock.wipe()
    server = grpc.server(ThreadPoolExecutor(4), options=server_options())
    server.add_generic_rpc_handlers((PlainSum(values, hospitals).handlers(),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(credentials))
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
