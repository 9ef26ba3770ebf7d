"""The JSON tensors of the Open Inference Protocol v2, as Triton, KServe and MLServer speak it.

Only what one question needs: requests and answers made of named tensors, data in row-major order, flat or as one list
a row. Client (:mod:`secure_fedhelp.learning.foundation`) and demo server share these models, so both read strictly: no
NaN, no infinity, no strings for numbers, as many values as the shape says.

Source: Open Inference Protocol, HTTP/REST (https://github.com/kserve/open-inference-protocol).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: The floating-point datatypes read here, and how numpy calls them.
DATATYPES = {"FP32": np.float32, "FP64": np.float64}
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


class ModelInfo(Message):
    """Answer of ``GET /v2/models/NAME``."""

    name: str
    versions: tuple[str, ...] = ()
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()


class Tensor(Message):
    name: str = Field(min_length=1, max_length=256)
    datatype: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=8)]
    #: Flat or nested; looked at by :func:`values_of` as one array, since a hostile list could be wrong in a million
    #: places and pydantic would remember each.
    data: list[Any]


class OutputName(Message):
    name: str


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


class ErrorAnswer(Message):
    error: str


def tensor(name: str, values: NDArray[np.float32]) -> Tensor:
    """An FP32 tensor of ``values`` (any shape). Doubles print so that float32 values come back exactly."""
    # Validating a quarter of a million numbers that come from a float32 array would only cost time.
    return Tensor.model_construct(name=name, datatype="FP32", shape=values.shape, data=values.ravel().tolist())


def values_of(tensor: Tensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A tensor's values as float32 of ``shape``; ValueError names the first thing that does not fit.

    FP64 is narrowed to float32, and a value beyond float32's range is refused as infinite.
    """
    if tensor.datatype not in DATATYPES:
        raise ValueError(f"tensor {tensor.name!r}: datatype {tensor.datatype[:32]!r}, FP32 or FP64 is read")
    if tensor.shape != shape:
        raise ValueError(f"tensor {tensor.name!r}: shape {list(tensor.shape)} where {list(shape)} belongs")
    try:
        given = np.asarray(tensor.data)
    except ValueError as error:
        raise ValueError(f"tensor {tensor.name!r}: rows of different lengths") from error
    if given.dtype.kind not in "fiu":  # text, null, booleans, objects, integers beyond 64 bits
        raise ValueError(f"tensor {tensor.name!r}: something in the data is not a number")
    values = given.astype(np.float64)
    if values.size != math.prod(shape):
        raise ValueError(f"tensor {tensor.name!r}: {values.size} values where the shape says {math.prod(shape)}")
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32).reshape(shape)
    if not np.isfinite(narrow).all():
        raise ValueError(f"tensor {tensor.name!r}: NaN, infinity or a value beyond float32")
    return narrow


def first_complaint(error: ValidationError) -> str:
    """Where and what pydantic refused first; one is enough, a hostile message could hold a million."""
    item = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in item["loc"])
    return f"{place}: {item['msg']}" if place else str(item["msg"])
