"""Asking one model on one inference server, over the Open Inference Protocol v2, with public inputs only.

What goes out is a :class:`~secure_fedhelp.data.records.PublicSet`, by type and by a check at run time (see
:mod:`secure_fedhelp.learning.foundation`). What comes back is a stranger's word: its size, names, types, shapes and
values are checked.

Redirects are not followed and proxies from the environment are not used: either would carry the question to an
endpoint that the site policy does not name.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import (
    FoundationAnswerInvalid,
    FoundationRefused,
    FoundationUnavailable,
    InvalidConfiguration,
)
from secure_fedhelp.learning.inference_protocol import (
    MODEL_NAME,
    ErrorAnswer,
    InferAnswer,
    InferRequest,
    ModelInfo,
    OutputName,
    TensorInfo,
    first_complaint,
    tensor,
    values_of,
)

Logits = NDArray[np.float32]

#: Seconds between attempts while the server is down or starting: five attempts, about eight seconds in all.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
#: Worth another attempt; every other status would be the same again.
PASSING_STATUS = frozenset({429, 500, 502, 503, 504})
#: Optional endpoints that a server may lack: not found, method not allowed, not implemented.
ABSENT_STATUS = frozenset({404, 405, 501})
#: Values in one request: about 5 MB of JSON, so that images do not add up to one enormous body.
VALUES_A_REQUEST = 2**18
LARGEST_BATCH = 256
#: An answer may take a fixed part and this much a logit (a double is at most 25 characters); the rest is never read.
ANSWER_BYTES = 2**16
ANSWER_BYTES_A_VALUE = 64
BASE_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True)
class FoundationAnswer:
    """Logits float32 [records, *answer_shape], and the version the server says it used."""

    logits: Logits
    model_version: str | None


class FoundationClient:
    """One model on one server. ``timeout_seconds`` bounds each request; ``sleep`` waits between attempts."""

    def __init__(
        self,
        url: str,
        model: str,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = _checked_url(url)
        self.model = model
        if not MODEL_NAME.fullmatch(model):
            raise InvalidConfiguration(f"foundation model name {model[:128]!r}: letters, digits, '_', '.' and '-' only")
        self._timeout = timeout_seconds
        self._transport = transport
        self._sleep = sleep
        self._monotonic = monotonic

    def logits(self, public: PublicSet, answer_shape: int | tuple[int, ...]) -> Logits:
        """The model's logits on every public input: float32 [records, *answer_shape]. Errors as :meth:`ask`."""
        return self.ask(public, answer_shape).logits

    def ask(self, public: PublicSet, answer_shape: int | tuple[int, ...]) -> FoundationAnswer:
        """Ask about all public inputs in batches; for a segmentation an answer is [classes, height, width].

        Raises FoundationUnavailable (down, slow, 5xx, model not served), FoundationAnswerInvalid (anything in the
        answer does not fit) and FoundationRefused (not a public set).
        """
        inputs, shape = public_inputs(public), answer_shape if isinstance(answer_shape, tuple) else (answer_shape,)
        batch = min(LARGEST_BATCH, max(1, VALUES_A_REQUEST // max(1, inputs[0].size)))
        with httpx.Client(
            transport=self._transport,
            timeout=self._timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"accept": "application/json", "accept-encoding": "identity"},
        ) as http:
            self._require_ready(http)
            info = self._metadata(http)
            parts, version = [], next(iter(info.versions), None)
            for start in range(0, len(inputs), batch):
                answer = self._infer(http, info, inputs[start : start + batch], shape)
                version = answer.model_version or version
                parts.append(answer.logits)
        return FoundationAnswer(np.concatenate(parts), version)

    def _require_ready(self, http: httpx.Client) -> None:
        status, body = self._call(http, "GET", "/v2/health/ready", ANSWER_BYTES)
        if status != 200 and status not in ABSENT_STATUS:
            raise FoundationUnavailable(f"{self.url} is not ready: HTTP {status}{_said(body)}")

    def _metadata(self, http: httpx.Client) -> ModelInfo:
        """The model's metadata, or an empty one if the server offers none."""
        status, body = self._call(http, "GET", f"/v2/models/{self.model}", ANSWER_BYTES)
        if status in ABSENT_STATUS:
            return ModelInfo(name=self.model)
        if status != 200:
            raise FoundationUnavailable(f"{self.url}: no metadata of {self.model!r}: HTTP {status}{_said(body)}")
        try:
            info = ModelInfo.model_validate_json(body)
        except ValidationError as error:
            raise self._invalid(f"metadata of {self.model!r}: {first_complaint(error)}") from error
        if info.name != self.model:
            raise self._invalid(f"metadata of {info.name[:128]!r} where {self.model!r} was asked for")
        if len(info.inputs) > 1:
            raise self._invalid(f"{self.model!r} has {len(info.inputs)} inputs; a teacher has one")
        if info.inputs and info.inputs[0].datatype != "FP32":
            raise self._invalid(f"{self.model!r} reads {info.inputs[0].datatype[:32]!r}; FP32 is sent")
        return info

    def _infer(
        self, http: httpx.Client, info: ModelInfo, inputs: NDArray[np.float32], shape: tuple[int, ...]
    ) -> FoundationAnswer:
        wanted = self._output_name(info.outputs)
        request = InferRequest.model_construct(
            id=None,
            inputs=(tensor(info.inputs[0].name if info.inputs else "input", inputs),),
            outputs=(OutputName(name=wanted),) if wanted else (),
        )
        body = request.model_dump_json(exclude_none=True, exclude_defaults=True).encode()
        largest = ANSWER_BYTES + ANSWER_BYTES_A_VALUE * len(inputs) * math.prod(shape)
        status, raw = self._call(http, "POST", f"/v2/models/{self.model}/infer", largest, body)
        if status in ABSENT_STATUS:
            raise FoundationUnavailable(f"{self.url} does not serve {self.model!r}: HTTP {status}{_said(raw)}")
        if status in (401, 403) or status >= 500:
            raise FoundationUnavailable(f"{self.url} gives {self.model!r} no answer: HTTP {status}{_said(raw)}")
        if status != 200:
            raise self._invalid(f"HTTP {status}{_said(raw)}")
        try:
            answer = InferAnswer.model_validate_json(raw)
        except ValidationError as error:
            raise self._invalid(first_complaint(error)) from error
        return FoundationAnswer(self._checked(answer, wanted, (len(inputs), *shape)), answer.model_version)

    def _output_name(self, outputs: tuple[TensorInfo, ...]) -> str | None:
        """The output to ask for: the only one, or the one called ``logits``; None without metadata."""
        names = [output.name for output in outputs]
        if len(names) <= 1:
            return names[0] if names else None
        if "logits" in names:
            return "logits"
        raise self._invalid(f"{self.model!r} has several outputs and none is called 'logits'")

    def _checked(self, answer: InferAnswer, wanted: str | None, shape: tuple[int, ...]) -> Logits:
        if answer.model_name != self.model:
            raise self._invalid(f"an answer of {answer.model_name[:128]!r} where {self.model!r} was asked")
        found = [output for output in answer.outputs if wanted in (None, output.name)]
        if len(found) != 1:
            named = f"called {wanted!r}" if wanted else "in all"
            raise self._invalid(f"{len(found)} outputs {named} where one belongs")
        try:
            return values_of(found[0], shape)
        except ValueError as error:
            raise self._invalid(str(error)) from error

    def _call(
        self, http: httpx.Client, method: str, path: str, largest: int, content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one request, tried again while the server is down; asking twice changes nothing there."""
        trouble = ""
        for pause in (*PAUSES_SECONDS, None):
            try:
                status, body = self._once(http, method, path, largest, content)
                if status not in PASSING_STATUS:
                    return status, body
                trouble = f"HTTP {status}{_said(body)}"
            except httpx.TimeoutException as error:  # it had its time; asking again would only wait again
                raise FoundationUnavailable(f"{self.url}{path}: no answer in {self._timeout:g} seconds") from error
            except httpx.RequestError as error:
                trouble = str(error)[:200] or type(error).__name__
            if pause is not None:
                self._sleep(pause)
        raise FoundationUnavailable(f"{self.url}{path}: {trouble} ({len(PAUSES_SECONDS) + 1} attempts)")

    def _once(
        self, http: httpx.Client, method: str, path: str, largest: int, content: bytes | None
    ) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} if content is not None else {}
        deadline = self._monotonic() + self._timeout
        with http.stream(method, self.url + path, content=content, headers=headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                # A few compressed bytes may unpack to gigabytes; we asked for none.
                raise self._invalid("a compressed answer, which was not asked for")
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > largest:
                    raise self._invalid(f"more than {largest} bytes, which is more than the question can need")
                if self._monotonic() > deadline:  # httpx bounds each read; a server that drips would go on for ever
                    raise httpx.ReadTimeout("slow answer", request=response.request)
            return response.status_code, bytes(body)

    def _invalid(self, what: str) -> FoundationAnswerInvalid:
        return FoundationAnswerInvalid(f"foundation server {self.url}: {what}")


def public_inputs(public: PublicSet) -> NDArray[np.float32]:
    """The inputs of a public set, and only of one: the last check before anything goes to a foundation model."""
    if not isinstance(public, PublicSet):
        raise FoundationRefused(
            f"a {type(public).__name__} is not a public set",
            "Only inputs of the plan's public set go to a foundation model; a hospital's records never do.",
        )
    inputs = np.ascontiguousarray(public.inputs, dtype=np.float32)
    if len(inputs) == 0 or not re.fullmatch(r"[0-9a-f]{64}", public.sha256):
        raise FoundationRefused("the public set is empty or has no SHA-256")
    if not np.isfinite(inputs).all():
        raise FoundationRefused("the public set holds NaN or infinity")
    return inputs


def _checked_url(url: str) -> str:
    """The server's base URL without a trailing slash; InvalidConfiguration if it is not a plain http(s) address."""
    if "@" in url:
        # A password would be written to the cache's record and into messages; and a policy that allows
        # http://inside must not be fooled by http://inside@outside.
        raise InvalidConfiguration("foundation URL: a user name or password in it is refused")
    found = BASE_URL.fullmatch(url)
    if found is None or int(found["port"] or 0) >= 2**16:
        raise InvalidConfiguration(f"foundation URL {url[:200]!r}: http://host:port or https://host expected")
    return url.rstrip("/")


def _said(body: bytes) -> str:
    """The server's own words after a status, if it answered a v2 error; shortened, and printable only."""
    try:
        words = ErrorAnswer.model_validate_json(body).error[:200]
    except ValidationError:
        return ""
    return " (" + "".join(c if c.isprintable() else " " for c in words) + ")"
