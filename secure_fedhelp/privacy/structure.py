"""What a network does by, as a key: equal keys, equal code on equal settings, so that one trial serves both."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from weakref import ReferenceType

import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Enum, type, BuiltinFunctionType)
#: Told of by name and shape, or by the module's own place in the network.
_ELSEWHERE = ("_parameters", "_modules")


def structure(model: nn.Module) -> Hashable | None:
    """Modules, shapes, constants, and every setting and function that a module holds; None where one cannot be told.

    Weights that are trained are not in it, everything else on which ``forward`` may branch is: another function, a
    dictionary of settings, a mask in a buffer.
    """
    try:
        modules = tuple((name, type(m), _settings(m)) for name, m in model.named_modules())
        return modules, tuple((name, *_parameter(p)) for name, p in model.named_parameters())
    except _NotTold:
        return None


class _NotTold(Exception):
    """Something of which no key is known."""


def _parameter(p: nn.Parameter) -> tuple[Hashable, ...]:
    return tuple(p.shape), p.dtype, p.requires_grad, None if p.requires_grad else _digest(p)


def _settings(module: nn.Module) -> Hashable:
    kept = ((name, value) for name, value in sorted(vars(module).items()) if name not in _ELSEWHERE)
    # Hooks stand under numbers that count all hooks of the process.
    return tuple((name, _key([*value.values()] if "_hooks" in name else value)) for name, value in kept)


def _key(value: object) -> Hashable:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, nn.Parameter):
        return "parameter", tuple(value.shape)
    if isinstance(value, ReferenceType):
        return "reference"
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape), value.dtype, _digest(value)
    if isinstance(value, Mapping):
        return type(value), tuple((_key(k), _key(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_key, value))
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(_key, value))
    if isinstance(value, partial):
        return partial, _key(value.func), _key(value.args), _key(value.keywords)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, _key(cells), _key(value.__defaults__), _key(value.__kwdefaults__)
    raise _NotTold


def _digest(values: Tensor) -> Hashable:
    if values.is_sparse or values.is_quantized or values.device.type != "cpu":
        raise _NotTold
    return hashlib.sha256(values.detach().contiguous().flatten().view(torch.uint8).numpy().data).digest()
