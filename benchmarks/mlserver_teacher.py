"""Our client against a real MLServer: what it serves is read right, or refused by name.

    python benchmarks/mlserver_teacher.py            # one to three minutes, most of it pip

A virtual environment in a temporary folder gets MLServer with its scikit-learn runtime, pinned below. On loopback it
serves a model of that runtime, and one of a few lines that answers logits in several manners. It needs pip and an
index: without them it says so and ends with exit code 77. Server, environment and models are gone when it ends.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.learning.inference_client import FoundationClient, Manner

PACKAGES = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1")
#: As test programs say that they could not be run.
SKIPPED = 77
SECONDS_TO_START = 90
RNG = np.random.default_rng(5)
INPUTS = RNG.normal(size=(20, 3)).astype(np.float32)
#: Of the linear model that both serve.
WEIGHTS, OFFSET = np.array([1.5, -0.5, 0.25]), 0.1

MODEL = '''
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse


class Linear(MLModel):
    """Logits (0, w x + b) of two classes, for eight records at most, in the manner that the settings name."""

    async def load(self):
        self.asked = 0
        return True

    async def predict(self, payload):
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        if len(x) > 8:
            raise InferenceError(f"{len(x)} records, this model takes 8")
        self.asked += 1
        manner = self.settings.parameters.extra["manner"]
        z = x.astype(np.float64) @ np.array([1.5, -0.5, 0.25]) + 0.1
        logits = np.stack([np.zeros_like(z), z], axis=1).astype("float16" if manner == "half" else "float32")
        if manner == "broken":
            logits = logits / 0
        if manner == "crash":
            raise RuntimeError("no memory for the batch")
        version = str(self.asked) if manner == "changing" else self.version
        outputs = [NumpyCodec.encode_output("logits", logits)]
        return InferenceResponse(model_name=self.name, model_version=version, outputs=outputs)
'''

FIT = """
import joblib, numpy as np
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit(np.eye(3).repeat(2, 0), [0, 1, 0, 1, 0, 1])
model.coef_, model.intercept_ = np.array([[1.5, -0.5, 0.25]]), np.array([0.1])
joblib.dump(model, "model.joblib")
"""


class Wrong(Exception):
    """MLServer's answer was taken for something else than it is."""


class NotInstalled(Exception):
    """There is no MLServer to be had here."""


def install(folder: Path) -> Path:
    """The interpreter of a new environment with MLServer; NotInstalled."""
    python = folder / "venv" / "bin" / "python"
    try:
        _done(sys.executable, "-m", "venv", folder / "venv")
        _done(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise NotInstalled(str(said).strip()[-500:]) from error
    return python


def _done(*command: object, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, cwd=cwd)  # noqa: S603


def write_models(python: Path, folder: Path, port: int) -> None:
    """MLServer's folder: settings, the scikit-learn model, and one custom model for each manner."""
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": _free(), "metrics_port": _free()}
    _write(folder / "settings.json", settings | {"parallel_workers": 0})
    sklearn = {"name": "sklearn", "implementation": "mlserver_sklearn.SKLearnModel"}
    _write(
        folder / "sklearn" / "model-settings.json", sklearn | {"parameters": {"uri": "./model.joblib", "version": "v1"}}
    )
    _done(python, "-c", FIT, cwd=folder / "sklearn")
    for manner in ("plain", "half", "broken", "crash", "changing"):
        _write_model(folder, manner, "linear.Linear", {"version": "3", "extra": {"manner": manner}})
        (folder / manner / "linear.py").write_text(MODEL)


def _write_model(folder: Path, name: str, implementation: str, parameters: dict[str, object]) -> None:
    settings = {"name": name, "implementation": implementation, "parameters": parameters}
    _write(folder / name / "model-settings.json", settings)


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(python: Path, folder: Path, port: int) -> Iterator[str]:
    """MLServer on loopback until the block ends; its URL."""
    log = (folder / "log.txt").open("wb")
    command = [str(python.parent / "mlserver"), "start", "."]
    server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not _ready(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"MLServer did not start:\n{(folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the process group is ours: it was made for this server
        server.wait()
        log.close()


def _ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def difference(logits: np.ndarray) -> np.ndarray:
    """What softmax sees of two classes' logits."""
    return logits[:, 1].astype(np.float64) - logits[:, 0]


EXPECTED = INPUTS.astype(np.float64) @ WEIGHTS + OFFSET


def checks(url: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """(what is asked, a check that returns what was seen and raises Wrong for what is not right)."""
    public = PublicSet.of(INPUTS, None)

    def ask(model: str, **manner: object) -> np.ndarray:
        client = FoundationClient(url, model, 20.0, manner=Manner(**manner), sleep=lambda _: None)
        return client.ask(public, 2).logits

    def right(model: str, tolerance: float, **manner: object) -> str:
        worst = float(np.abs(difference(ask(model, **manner)) - EXPECTED).max())
        if worst > tolerance:
            raise Wrong(f"off by {worst:g}")
        return f"right to {worst:.1e}"

    def refused(words: str, model: str, **manner: object) -> str:
        try:
            ask(model, **manner)
        except FedHelpError as error:
            said = f"{type(error).__name__}: {error.message.replace(url, 'SERVER')} | {error.hint}"
            if words not in said:
                raise Wrong(said) from error
            return said
        raise Wrong("it was taken")

    def version() -> str:
        return str(FoundationClient(url, "plain", 20.0, manner=Manner(largest_batch=8)).ask(public, 2).model_version)

    yield "logits, in batches of 8", lambda: right("plain", 1e-5, largest_batch=8)
    yield "its version", version
    yield "the version that is named", lambda: right("plain", 1e-5, largest_batch=8, version="3")
    yield "half precision, as JSON", lambda: right("half", 2e-3, largest_batch=8)
    yield "20 records where 8 are taken", lambda: refused("this model takes 8", "plain")
    yield "  and what it says to do", lambda: refused("largest_batch", "plain")
    yield "another version", lambda: refused("version", "plain", version="4")
    yield "a model that is not there", lambda: refused("404", "nobody")
    yield "a model that changes", lambda: refused("changed while it was asked", "changing", largest_batch=8)
    yield "infinite logits", lambda: refused("null", "broken", largest_batch=8)
    yield "a model that fails", lambda: refused("no memory for the batch", "crash", largest_batch=8)
    yield "scikit-learn, no output named", lambda: refused("numbers of classes", "sklearn")
    yield "probabilities that nobody declared", lambda: refused("adds up to 1", "sklearn", output="predict_proba")
    yield "declared probabilities", lambda: right("sklearn", 1e-4, output="predict_proba", answers="probabilities")
    yield "an output that is not there", lambda: refused("only supports", "sklearn", output="decision_function")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, failed = Path(name), 0
        try:
            python = install(folder)
        except NotInstalled as error:
            print(f"skipped: MLServer cannot be installed here: {error}")
            return SKIPPED
        (models := folder / "models").mkdir()
        port = _free()
        write_models(python, models, port)
        print(f"{', '.join(PACKAGES)}, Python {sys.version.split()[0]}")
        with serving(python, models, port) as url:
            for what, check in checks(url):
                try:
                    print(f"ok      {what}: {check()}")
                except (Wrong, FedHelpError) as error:
                    failed += 1
                    print(f"FAILED  {what}: {type(error).__name__} {error}")
    print(f"{failed} failed" if failed else "all hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
