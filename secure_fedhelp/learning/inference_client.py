"""Asking one model on one inference server, over the Open Inference Protocol v2, with public inputs only.

What goes out is a :class:`~secure_fedhelp.data.records.PublicSet`, by type and by a check at run time (see
:mod:`secure_fedhelp.learning.foundation`). What comes back is a stranger's word: its size, names, types, shapes and
values are checked, that one and the same model gave all of it, and that it can be what the hospital says it is.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import (
    FoundationAnswerInvalid,
    FoundationChanged,
    FoundationRefused,
    FoundationUnavailable,
    InvalidConfiguration,
)
from secure_fedhelp.learning.inference_http import (
    ABSENT_STATUS,
    ANSWER_BYTES,
    Answered,
    InferenceHttp,
    Token,
    checked_url,
    require_closed,
    trusting,
)
from secure_fedhelp.learning.inference_protocol import (
    DATATYPES,
    HALVES,
    MODEL_NAME,
    InferAnswer,
    InferRequest,
    ModelInfo,
    OutputName,
    OutputParameters,
    ServerInfo,
    Tensor,
    TensorInfo,
    TensorParameters,
    first_complaint,
    split_bytes,
    tensor,
    tensor_bytes,
    values_of,
)
from secure_fedhelp.learning.teacher_answers import Answers, Logits, NotLogits, as_logits, require_order

#: Values in one request: about 5 MB of JSON, so that images do not add up to one enormous body.
VALUES_A_REQUEST = 2**18
LARGEST_BATCH = 256
#: An answer may take a fixed part and this much a logit (a double is at most 25 characters); the rest is never read.
ANSWER_BYTES_A_VALUE = 64
#: How far apart two answers about one record may be, absolutely and relatively: half precision in another batch.
_SAME_AGAIN = 0.05
#: What Triton says of a batch that is too large for a model.
_TOO_LARGE = re.compile(r"batch-size must be <= ([0-9]{1,6})")
_HINT_BATCH = "If it takes fewer records at once, set largest_batch in [[foundations]] of hospital.toml."


@dataclass(frozen=True)
class Manner:
    """How a hospital's server wants to be asked, and what its numbers are; all of it the hospital's own business."""

    #: Of several versions the one that is meant; None leaves it to the server.
    version: str | None = None
    #: Of several outputs the one that is meant.
    output: str | None = None
    #: What its numbers are; None: logits, and what cannot be any is refused.
    answers: Answers | None = None
    #: Records in one question, at most.
    largest_batch: int | None = None
    #: PEM certificates of the authorities that vouch for the server, in place of the usual ones.
    ca_pem: bytes | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FoundationAnswer:
    """Logits float32 [records, *answer_shape], and the version the server says it used."""

    logits: Logits
    model_version: str | None


@dataclass(frozen=True)
class _Question:
    """What every request to the model has in common."""

    path: str
    input: str
    #: Of the input, and whether it goes as bytes.
    datatype: str
    as_bytes: bool
    output: OutputName | None


@dataclass(frozen=True)
class _Part:
    """One answer: float32 [records, *answer_shape] as they came, and of what datatype and version."""

    values: NDArray[np.float32]
    datatype: str
    version: str | None


class _BatchTooLarge(Exception):
    def __init__(self, largest: int) -> None:
        self.largest = largest


class FoundationClient:
    """One model on one server. ``timeout_seconds`` bounds each request; ``sleep`` waits between attempts."""

    def __init__(
        self,
        url: str,
        model: str,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None = None,
        manner: Manner | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """InvalidConfiguration for a URL, name, authority or token that cannot be used."""
        self.url, self.model = checked_url(url), model
        self.manner = manner or Manner()
        for what, name in (("name", model), ("version", self.manner.version)):
            if name is not None and not MODEL_NAME.fullmatch(name):
                raise InvalidConfiguration(
                    f"foundation model {what} {name[:128]!r}: letters, digits, '_', '.' and '-' only"
                )
        if self.manner.token is not None:
            require_closed(self.url)
        self._trusted = None if self.manner.ca_pem is None else trusting(self.url, self.manner.ca_pem)
        self._timeout = timeout_seconds
        self._transport = transport
        self._sleep = sleep
        self._monotonic = monotonic

    def logits(self, public: PublicSet, answer_shape: int | tuple[int, ...]) -> Logits:
        """The model's logits on every public input: float32 [records, *answer_shape]. Errors as :meth:`ask`."""
        return self.ask(public, answer_shape).logits

    def ask(self, public: PublicSet, answer_shape: int | tuple[int, ...]) -> FoundationAnswer:
        """Ask about all public inputs in batches; for a segmentation an answer is [classes, height, width].

        Raises FoundationUnavailable (down, slow, 5xx, model not served, no right to ask), FoundationAnswerInvalid
        (anything in the answer does not fit, or it is no logits), FoundationChanged (not all of it is one model's) and
        FoundationRefused (not a public set).
        """
        inputs, shape = public_inputs(public), answer_shape if isinstance(answer_shape, tuple) else (answer_shape,)
        with InferenceHttp(
            self.url, self._timeout, self._transport, self._trusted, self.manner.token, self._sleep, self._monotonic
        ) as http:
            self._require_ready(http)
            info = self._metadata(http)
            parts = self._ask_all(http, info, inputs, shape)
        values, datatype = np.concatenate([part.values for part in parts]), parts[0].datatype
        try:
            logits = as_logits(values, self.manner.answers, datatype)
            require_order(logits, public.labels, shape[0])
        except NotLogits as error:
            raise FoundationAnswerInvalid(f"{self.model!r} on {self.url}: {error}", error.hint) from error
        return FoundationAnswer(logits, parts[0].version or next(iter(info.versions), None))

    # --- before the questions ----------------------------------------------------------------------------------------

    def _require_ready(self, http: InferenceHttp) -> None:
        answered = http.call("GET", "/v2/health/ready", ANSWER_BYTES)
        if answered.status != 200 and answered.status not in ABSENT_STATUS:
            refused = http.refusal(f"{self.url} is not ready", answered)
            raise FoundationUnavailable(refused.message, refused.hint)

    @property
    def _path(self) -> str:
        version = "" if self.manner.version is None else f"/versions/{self.manner.version}"
        return f"/v2/models/{self.model}{version}"

    def _metadata(self, http: InferenceHttp) -> ModelInfo:
        """The model's metadata, or an empty one if the server offers none."""
        answered = http.call("GET", self._path, ANSWER_BYTES)
        if answered.status in ABSENT_STATUS:
            return ModelInfo(name=self.model)
        if answered.status != 200:
            refused = http.refusal(f"{self.url}: no metadata of {self.model!r}", answered)
            raise FoundationUnavailable(refused.message, refused.hint)
        try:
            info = ModelInfo.model_validate_json(answered.body)
        except ValidationError as error:
            raise http.invalid(f"metadata of {self.model!r}: {first_complaint(error)}") from error
        if info.name != self.model:
            raise http.invalid(f"metadata of {info.name[:128]!r} where {self.model!r} was asked for")
        if len(info.inputs) > 1:
            raise http.invalid(f"{self.model!r} has {len(info.inputs)} inputs; a teacher has one")
        if info.inputs and info.inputs[0].datatype not in ("", *DATATYPES):
            raise http.invalid(
                f"{self.model!r} reads {info.inputs[0].datatype[:32]!r}; one of {', '.join(DATATYPES)} is sent"
            )
        return info

    def _question(self, http: InferenceHttp, info: ModelInfo) -> _Question:
        datatype = (info.inputs[0].datatype if info.inputs else "") or "FP32"
        # FP16 goes as JSON to a server that reads no bytes; only what is written as JSON is written exactly.
        as_bytes = datatype == "BF16" or (datatype == "FP16" and self._reads_bytes(http))
        wanted = self._output(http, info.outputs)
        output = None
        if wanted is not None:
            half = wanted.datatype in HALVES
            output = OutputName(name=wanted.name, parameters=OutputParameters(binary_data=True) if half else None)
        name = info.inputs[0].name if info.inputs else "input"
        return _Question(f"{self._path}/infer", name, datatype, as_bytes, output)

    def _reads_bytes(self, http: InferenceHttp) -> bool:
        answered = http.call("GET", "/v2", ANSWER_BYTES)
        try:
            return "binary_tensor_data" in ServerInfo.model_validate_json(answered.body).extensions
        except ValidationError:
            return False

    def _output(self, http: InferenceHttp, outputs: tuple[TensorInfo, ...]) -> TensorInfo | None:
        """The output to ask for: the named one, the only one, or the one called ``logits``; None without metadata."""
        named = {output.name: output for output in outputs}
        if self.manner.output is not None:
            if named and self.manner.output not in named:
                listed = ", ".join(repr(name[:64]) for name in list(named)[:8])
                raise http.invalid(f"{self.model!r} has no output {self.manner.output!r}; it has {listed}")
            return named.get(self.manner.output, TensorInfo(name=self.manner.output))
        if len(outputs) <= 1:
            return outputs[0] if outputs else None
        if "logits" in named:
            return named["logits"]
        listed = ", ".join(repr(name[:64]) for name in list(named)[:8])
        raise http.invalid(
            f"{self.model!r} has several outputs and none is called 'logits': {listed}",
            "Name the one that is meant: output in [[foundations]] of hospital.toml.",
        )

    # --- the questions -----------------------------------------------------------------------------------------------

    def _ask_all(
        self, http: InferenceHttp, info: ModelInfo, inputs: NDArray[np.float32], shape: tuple[int, ...]
    ) -> list[_Part]:
        question, fixed = self._question(http, info), self._fixed_batch(http, info, inputs)
        batch = min(LARGEST_BATCH, max(1, VALUES_A_REQUEST // max(1, inputs[0].size)))
        batch = fixed or min(batch, self.manner.largest_batch or batch)
        parts: list[_Part] = []
        start = 0
        while start < len(inputs):
            try:
                parts.append(self._infer(http, question, inputs[start : start + batch], shape, fixed))
            except _BatchTooLarge as error:
                batch = error.largest
                continue
            self._require_one_model(info, parts)
            start += batch
        if len(parts) > 1:  # a model that was replaced half-way may have no version to tell it by
            again = self._infer(http, question, inputs[:1], shape, fixed)
            self._require_one_model(info, [*parts, again])
            if not np.allclose(again.values, parts[0].values[:1], rtol=_SAME_AGAIN, atol=_SAME_AGAIN):
                raise FoundationChanged(
                    f"{self.model!r} on {self.url} answers otherwise about a record that it was asked about before",
                    "Serve one model, with its random layers off (evaluation mode). Nothing was kept.",
                )
        return parts

    def _fixed_batch(self, http: InferenceHttp, info: ModelInfo, inputs: NDArray[np.float32]) -> int | None:
        """How many records a question must have, if the metadata say so; the other sizes have to be ours."""
        sizes = info.inputs[0].shape if info.inputs else ()
        if len(sizes) != inputs.ndim:
            return None  # some servers leave the records' axis out, or the shape
        if any(size >= 0 and size != own for size, own in zip(sizes[1:], inputs.shape[1:], strict=True)):
            raise http.invalid(f"{self.model!r} reads shape {list(sizes)}; the plan's is [-1, {_sizes(inputs)}]")
        if sizes[0] > LARGEST_BATCH:
            raise http.invalid(f"{self.model!r} reads {sizes[0]} records at once; {LARGEST_BATCH} at most are sent")
        return sizes[0] if sizes[0] > 0 else None

    def _infer(
        self,
        http: InferenceHttp,
        question: _Question,
        inputs: NDArray[np.float32],
        shape: tuple[int, ...],
        fixed: int | None,
    ) -> _Part:
        """One question. With a ``fixed`` number of records the last one is repeated, and what is too much cut off."""
        count = len(inputs)
        if fixed is not None and count < fixed:
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], fixed - count, axis=0)])
        body, json_bytes = _body(question, inputs)
        largest = ANSWER_BYTES + ANSWER_BYTES_A_VALUE * len(inputs) * math.prod(shape)
        answered = http.call("POST", question.path, largest, body, json_bytes)
        if answered.status != 200:
            raise self._refused(http, answered, len(inputs), fixed)
        part = self._checked(http, question, answered, (len(inputs), *shape))
        return _Part(part.values[:count], part.datatype, part.version)

    def _refused(self, http: InferenceHttp, answered: Answered, records: int, fixed: int | None) -> Exception:
        words = http.words(answered.body)
        found = _TOO_LARGE.search(words) if answered.status == 400 and fixed is None else None
        if found is not None and 0 < int(found[1]) < records:
            return _BatchTooLarge(int(found[1]))
        refused = http.refusal(f"{self.url} gives {self.model!r} no answer about {records} records", answered)
        if answered.status in (400, 422, 500) and records > 1:
            refused.hint = _HINT_BATCH
        return refused

    def _checked(self, http: InferenceHttp, question: _Question, answered: Answered, shape: tuple[int, ...]) -> _Part:
        try:
            answer = InferAnswer.model_validate_json(answered.body[: answered.json_bytes])
        except ValidationError as error:
            raise http.invalid(first_complaint(error)) from error
        if answer.model_name != self.model:
            raise http.invalid(f"an answer of {answer.model_name[:128]!r} where {self.model!r} was asked")
        wanted = None if question.output is None else question.output.name
        found = [number for number, output in enumerate(answer.outputs) if wanted in (None, output.name)]
        if len(found) != 1:
            named = f"called {wanted!r}" if wanted else "in all"
            raise http.invalid(f"{len(found)} outputs {named} where one belongs")
        output = answer.outputs[found[0]]
        try:
            data = split_bytes(answer.outputs, answered.body[answered.json_bytes :])[found[0]]
            values = values_of(output, shape, data)
        except ValueError as error:
            hint = None
            if output.shape in (shape[:1], (*shape[:1], 1)) and shape[1:] == (2,):
                hint = "One number a record is a sigmoid or a class: serve one for each class, before the softmax."
            raise http.invalid(str(error), hint) from error
        return _Part(values, output.datatype, answer.model_version)

    def _require_one_model(self, info: ModelInfo, parts: list[_Part]) -> None:
        """FoundationChanged unless the last of ``parts`` is by the model of the first, and of the metadata."""
        last, who = parts[-1].version, f"{self.model!r} on {self.url}"
        told = {"version": (parts[0].version, last), "datatype": (parts[0].datatype, parts[-1].datatype)}
        for what, (before, now) in told.items():
            if before != now:
                changed = f"{what} {_short(before)}, then {_short(now)}"
                raise FoundationChanged(f"{who} changed while it was asked: {changed}")
        if last is None:
            return
        if self.manner.version not in (None, last):
            raise FoundationChanged(f"{who} answered as version {_short(last)}, asked was {self.manner.version!r}")
        if info.versions and last not in info.versions:
            listed = ", ".join(_short(version) for version in info.versions[:8])
            raise FoundationChanged(f"{who} answered as version {_short(last)}, its metadata say {listed}")


def _body(question: _Question, inputs: NDArray[np.float32]) -> tuple[bytes, int | None]:
    """A request's body, and how much of it is JSON, if not all."""
    given, data = tensor(question.input, inputs), b""
    if question.as_bytes:
        data = tensor_bytes(inputs, question.datatype)
        given = Tensor.model_construct(
            name=question.input,
            datatype=question.datatype,
            shape=inputs.shape,
            parameters=TensorParameters(binary_data_size=len(data)),
        )
    elif question.datatype != "FP32":
        given = given.model_copy(update={"datatype": question.datatype})
    request = InferRequest.model_construct(
        id=None, inputs=(given,), outputs=() if question.output is None else (question.output,)
    )
    text = request.model_dump_json(exclude_none=True, exclude_defaults=True).encode()
    return text + data, len(text) if question.as_bytes else None


def _short(version: str | None) -> str:
    return "none" if version is None else repr(version[:64])


def _sizes(inputs: NDArray[np.float32]) -> str:
    return ", ".join(map(str, inputs.shape[1:]))


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
