"""A small Open Inference Protocol v2 server for the demo: one teacher, on the loopback interface only.

It lets a study run end to end on one machine over the same HTTP as Triton, KServe or MLServer. It has neither TLS nor
authentication, so it refuses to listen anywhere but on loopback; a consortium runs a real inference server.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from pydantic import ValidationError

from secure_fedhelp import __version__
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.learning.inference_protocol import (
    MODEL_NAME,
    InferAnswer,
    InferRequest,
    ModelInfo,
    TensorInfo,
    first_complaint,
    tensor,
    values_of,
)
from secure_fedhelp.research.teacher import Teacher

#: Larger requests are refused unread; the client sends about 5 MB at most.
LARGEST_REQUEST_BYTES = 64 * 2**20
#: Seconds a connection may be silent before its thread ends.
SILENCE_SECONDS = 60.0
MODEL_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<verb>/ready|/infer)?")


class Refused(Exception):
    """A status and words for the caller; not an error of ours."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Foundation:
    """One teacher under a name, as the protocol's paths and bodies; whoever carries them over HTTP comes below."""

    def __init__(self, teacher: Teacher, name: str) -> None:
        self.teacher, self.name, self.version = teacher, name, teacher.version
        if not MODEL_NAME.fullmatch(name):
            raise InvalidConfiguration(f"model name {name[:128]!r}: letters, digits, '_', '.' and '-' only")

    def get(self, path: str) -> bytes:
        """The answer to a GET; Refused says what is wrong with it."""
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return _json({"ready": True})
        if path in ("/v2", "/v2/"):
            return _json({"name": "secure-fedhelp", "version": __version__, "extensions": []})
        verb = self.verb(path)
        if verb == "/ready":
            return _json({"name": self.name, "ready": True})
        if verb == "/infer":
            raise Refused(405, "infer takes POST")
        return _json({**self.metadata().model_dump(mode="json"), "platform": "numpy"})

    def post(self, path: str, body: bytes) -> bytes:
        """The answer to a POST; Refused says what is wrong with it."""
        self.require_infer(path)
        return self.infer(body)

    def require_infer(self, path: str) -> None:
        """Refused if nothing may be posted to ``path``."""
        if self.verb(path) != "/infer":
            raise Refused(405, "this path takes GET")

    def verb(self, path: str) -> str:
        """What a path asks of this model; Refused if it is another's."""
        found = MODEL_PATH.fullmatch(path)
        if found is None:
            raise Refused(404, "no such path")
        if found["name"] != self.name or found["version"] not in (None, self.version):
            raise Refused(404, f"no such model; {self.name} version {self.version} is served here")
        return found["verb"] or ""

    def metadata(self) -> ModelInfo:
        return ModelInfo(
            name=self.name,
            versions=(self.version,),
            inputs=(TensorInfo(name="input", datatype="FP32", shape=(-1, *self.teacher.input_shape)),),
            outputs=(TensorInfo(name="logits", datatype="FP32", shape=(-1, *self.teacher.answer_shape)),),
        )

    def infer(self, body: bytes) -> bytes:
        """The answer to one request's body; Refused says what is wrong with it."""
        try:
            request = InferRequest.model_validate_json(body)
        except ValidationError as error:
            raise Refused(400, first_complaint(error)) from error
        if [given.name for given in request.inputs] != ["input"] or request.inputs[0].datatype != "FP32":
            raise Refused(400, "one input named 'input' of datatype FP32 is expected")
        if any(output.name != "logits" for output in request.outputs):
            raise Refused(400, "the only output is 'logits'")
        given = request.inputs[0]
        try:
            inputs = values_of(given, (*given.shape[:1], *self.teacher.input_shape))
            with np.errstate(over="ignore", invalid="ignore"):
                logits = self.teacher.logits(inputs)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if not np.isfinite(logits).all():
            raise Refused(400, "inputs too large: the logits are not finite")
        answer = InferAnswer.model_construct(
            model_name=self.name, model_version=self.version, id=request.id, outputs=(tensor("logits", logits),)
        )
        return answer.model_dump_json(exclude_none=True).encode()


class FoundationServer(ThreadingHTTPServer):
    """Serves ``teacher`` under ``name`` at ``listen`` (HOST:PORT, port 0 for any free one)."""

    daemon_threads = True

    def __init__(self, teacher: Teacher, name: str, listen: str) -> None:
        self.foundation = Foundation(teacher, name)
        try:
            super().__init__(_loopback(listen), _Handler)
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot listen on {listen}: {error.strerror}", "Choose another port, or 0 for a free one."
            ) from error

    @property
    def address(self) -> str:
        """HOST:PORT in use."""
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is no event; anything else is shown as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: FoundationServer
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_SECONDS
    #: Status line and body are two writes; with Nagle's algorithm each answer would wait 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Any) -> None:
        try:
            self._reply(200, method())
        except Refused as refused:
            self.send_error(refused.status, str(refused))

    def _get(self) -> bytes:
        return self.server.foundation.get(self.path)

    def _post(self) -> bytes:
        self.server.foundation.require_infer(self.path)
        length = self.headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            raise Refused(411, "a Content-Length is needed")
        if int(length) > LARGEST_REQUEST_BYTES:
            raise Refused(413, f"a request of more than {LARGEST_REQUEST_BYTES} bytes")
        return self.server.foundation.infer(self.rfile.read(int(length)))

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The protocol's error body. The connection ends with it, since the request may be unread."""
        self.close_connection = True
        self._reply(code, _json({"error": message or explain or "refused"}))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a demo's screen is for the study."""


def _loopback(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    try:
        if not ipaddress.IPv4Address(host).is_loopback:
            raise InvalidConfiguration(
                f"{listen}: this server has no TLS and listens on loopback (127.0.0.1) only",
                "Put the model on Triton, KServe or MLServer and give its URL to the hospitals.",
            )
        if not 0 <= int(port) < 2**16:
            raise ValueError(port)
    except ValueError as error:
        raise InvalidConfiguration(f"address {listen!r}", "HOST:PORT is expected, for example 127.0.0.1:0.") from error
    return host, int(port)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
