"""The tensors of the Open Inference Protocol v2, as Triton, KServe and MLServer speak it.

Only what one question needs: requests and answers made of named tensors, data in row-major order: as JSON, flat or one
list a row, or as bytes after the JSON. Client (:mod:`secure_fedhelp.learning.foundation`) and demo server share these
models, so both read strictly: no NaN, no infinity, no strings for numbers, as many values as the shape says.

JSON has no way to write a BF16, so it exists as bytes only; Triton sends FP16 as bytes only, MLServer as JSON only.

Sources: Open Inference Protocol, HTTP/REST (https://github.com/kserve/open-inference-protocol); the binary tensor data
extension (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

#: The floating-point datatypes read here, and the little-endian numbers of their bytes; of BF16 the upper half of FP32.
DATATYPES = {"FP16": "<f2", "BF16": "<u2", "FP32": "<f4", "FP64": "<f8"}
#: Those that a server may be unable to write as JSON.
HALVES = ("FP16", "BF16")
_WHOLE = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
#: A model name that needs no escaping in a path.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Message(BaseModel):
    """Frozen; keys we do not know are passed over, because the protocol lets every server add ``parameters``."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class TensorInfo(Message):
    """One input or output as a model's metadata describes it; -1 in ``shape`` means any size."""

    name: str = Field(min_length=1, max_length=256)
    datatype: str = ""
    shape: tuple[int, ...] = ()


def _or_none(given: object) -> object:
    return () if given is None else given  # servers write null for what they do not know


_Infos = Annotated[tuple[TensorInfo, ...], BeforeValidator(_or_none)]


class ModelInfo(Message):
    """Answer of ``GET /v2/models/NAME``. MLServer knows nothing of most models and answers empty lists."""

    name: str
    versions: Annotated[tuple[str, ...], BeforeValidator(_or_none)] = ()
    inputs: _Infos = ()
    outputs: _Infos = ()


class ServerInfo(Message):
    """Answer of ``GET /v2``."""

    extensions: Annotated[tuple[str, ...], BeforeValidator(_or_none)] = ()


class TensorParameters(Message):
    """Of the binary tensor data extension: how many bytes of a tensor follow the JSON."""

    binary_data_size: Annotated[int, Field(ge=0, lt=2**40)] | None = None


class Tensor(Message):
    name: str = Field(min_length=1, max_length=256)
    datatype: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=8)]
    #: Flat or nested; looked at by :func:`values_of` as one array, since a hostile list could be wrong in a million
    #: places and pydantic would remember each.
    data: list[Any] | None = None
    parameters: TensorParameters | None = None


class OutputParameters(Message):
    binary_data: bool = False


class OutputName(Message):
    name: str
    parameters: OutputParameters | None = None


class InferRequest(Message):
    """Body of ``POST /v2/models/NAME/infer``."""

    id: str | None = Field(default=None, max_length=256)
    inputs: tuple[Tensor, ...]
    outputs: tuple[OutputName, ...] = ()


class InferAnswer(Message):
    model_name: str
    model_version: str | None = None
    id: str | None = None
    outputs: tuple[Tensor, ...]


def tensor(name: str, values: NDArray[np.float32]) -> Tensor:
    """An FP32 tensor of ``values`` (any shape). Doubles print so that float32 values come back exactly."""
    # Validating a quarter of a million numbers that come from a float32 array would only cost time.
    return Tensor.model_construct(name=name, datatype="FP32", shape=values.shape, data=values.ravel().tolist())


def tensor_bytes(values: NDArray[np.float32], datatype: str) -> bytes:
    """The bytes of ``values`` as a datatype of :data:`DATATYPES`, rounded to nearest; FP16 may become infinite."""
    if datatype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(DATATYPES[datatype]).tobytes()
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()  # ties to even


def split_bytes(outputs: tuple[Tensor, ...], data: bytes) -> list[bytes | None]:
    """For each output its bytes behind the JSON, or None for one in JSON; ValueError unless they add up to ``data``."""
    found: list[bytes | None] = []
    for output in outputs:
        size = output.parameters.binary_data_size if output.parameters else None
        found.append(None if size is None else data[:size])
        if size is not None and len(data) < size:
            raise ValueError(f"tensor {output.name!r}: {size} bytes are announced, {len(data)} are there")
        data = data[size or 0 :]
    if data:
        raise ValueError(f"{len(data)} bytes that belong to no tensor")
    return found


def values_of(tensor: Tensor, shape: tuple[int, ...], data: bytes | None = None) -> NDArray[np.float32]:
    """A tensor's values as float32 of ``shape``, from its ``data`` or else its JSON.

    ValueError names the first thing that does not fit. FP64 is narrowed to float32, and a value beyond float32's range
    is refused as infinite.
    """
    if tensor.datatype in _WHOLE:
        raise ValueError(
            f"tensor {tensor.name!r}: datatype {tensor.datatype!r}: numbers of classes, it seems, where one for each "
            "class belongs; name another output (output in [[foundations]])"
        )
    if tensor.datatype not in DATATYPES:
        raise ValueError(f"tensor {tensor.name!r}: datatype {tensor.datatype[:32]!r}, {', '.join(DATATYPES)} are read")
    if tensor.shape != shape:
        raise ValueError(f"tensor {tensor.name!r}: shape {list(tensor.shape)} where {list(shape)} belongs")
    values = _of_json(tensor) if data is None else _of_bytes(tensor, data)
    if values.size != math.prod(shape):
        raise ValueError(f"tensor {tensor.name!r}: {values.size} values where the shape says {math.prod(shape)}")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32).reshape(shape)
    if not np.isfinite(narrow).all():
        raise ValueError(f"tensor {tensor.name!r}: NaN, infinity or a value beyond float32")
    return narrow


def _of_json(tensor: Tensor) -> NDArray[np.float64]:
    if tensor.datatype == "BF16":
        raise ValueError(f"tensor {tensor.name!r}: BF16 as JSON, which there is not")
    if tensor.data is None:
        raise ValueError(f"tensor {tensor.name!r}: no data")
    try:
        given = np.asarray(tensor.data)
    except ValueError as error:
        raise ValueError(f"tensor {tensor.name!r}: rows of different lengths") from error
    if given.dtype.kind == "O" and None in given.ravel().tolist():
        raise ValueError(
            f"tensor {tensor.name!r}: null, which is not a number: some servers write NaN and infinity so, and of FP16 "
            "all beyond 65504 is infinite"
        )
    if given.dtype.kind not in "fiu":  # text, booleans, objects, integers beyond 64 bits
        raise ValueError(f"tensor {tensor.name!r}: something in the data is not a number")
    return given.astype(np.float64)


def _of_bytes(tensor: Tensor, data: bytes) -> NDArray[np.float64]:
    kind = np.dtype(DATATYPES[tensor.datatype])
    if len(data) % kind.itemsize:
        raise ValueError(f"tensor {tensor.name!r}: {len(data)} bytes are no {tensor.datatype}")
    found = np.frombuffer(data, dtype=kind)
    if tensor.datatype == "BF16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN: named below
        return found.astype(np.float64)


def first_complaint(error: ValidationError) -> str:
    """Where and what pydantic refused first; one is enough, a hostile message could hold a million."""
    item = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in item["loc"])
    return f"{place}: {item['msg']}" if place else str(item["msg"])
