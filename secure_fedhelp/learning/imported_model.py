"""Any network by its import path, taken apart into an extractor and a head.

``package.module:function`` is called with (input_shape, classes) and gives a ``torch.nn.Module`` from float32 inputs
[b, ...] to logits [b, classes], or [b, classes, height, width] for a segmentation. Its last linear or 1x1
convolutional layer with one output a class is the head; what is before it, the extractor. Whether the module is
really made so is not believed but tried.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.learning.imported import import_named
from secure_fedhelp.learning.networks import Head
from secure_fedhelp.privacy.compatibility import usable_inputs

#: Inputs that the parts are tried with, and how far they may be from the whole: it is the same arithmetic.
_TRIED, _TOLERANCE = 3, 1e-5


def take_apart(path: str, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, Head]:
    """Extractor and head of the network at ``path``; InvalidPlan if there is none.

    Raises UnsupportedModel, naming the layer, if it has no such head or a frozen one, if head after extractor is
    another function than the module, or if training changes a buffer: its figures would be lost, or would leave.
    """
    module = _called(path, shape, classes)
    name, head = _last_head(module, classes, path)
    if not all(p.requires_grad for p in head.parameters()):
        raise UnsupportedModel(
            f"{path}: the last layer {name!r} is frozen, and it is what private records train",
            "Freeze what is before it: requires_grad_(False) on the encoder alone.",
        )
    inputs = _taken(module, shape, path)
    whole = _tried(module.eval(), inputs, path)
    if whole.shape[:2] != (_TRIED, classes) or (whole.ndim, isinstance(head, nn.Conv2d)) not in ((2, False), (4, True)):
        raise UnsupportedModel(
            f"{path}: answers of shape {tuple(whole.shape)} for {_TRIED} inputs, {classes} classes and head {name!r}"
        )
    _require_kept_buffers(module, inputs, path)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Identity())
    features = _tried(module.eval(), inputs, path)
    try:
        parts = head(features)
    except (RuntimeError, TypeError) as error:
        raise _not_last(path, name, head) from error
    if parts.shape != whole.shape or not torch.allclose(parts, whole, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise _not_last(path, name, head)
    return module.train(), head


def _called(path: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    function = import_named(path, "model")
    try:
        module = function(shape, classes)  # type: ignore[operator]  # that it can be called is tried here
    except Exception as error:  # somebody else's code may raise anything
        raise UnsupportedModel(f"{path}{(shape, classes)}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UnsupportedModel(f"{path}{(shape, classes)} gave a {type(module).__name__}, no torch.nn.Module")
    return module


def _last_head(module: nn.Module, classes: int, path: str) -> tuple[str, Head]:
    found: tuple[str, Head] | None = None
    for name, layer in module.named_modules():
        linear = isinstance(layer, nn.Linear) and layer.out_features == classes
        pointwise = isinstance(layer, nn.Conv2d) and (layer.out_channels, set(layer.kernel_size)) == (classes, {1})
        if name and isinstance(layer, nn.Linear | nn.Conv2d) and (linear or pointwise):
            found = name, layer
    if found is None:
        raise UnsupportedModel(
            f"{path}: no layer of the module is linear, or a 1x1 convolution, with {classes} outputs",
            "Give it such a layer at its end, as a module inside of another: the two heads take its place.",
        )
    return found


def _taken(module: nn.Module, shape: tuple[int, ...], path: str) -> Tensor:
    """Inputs [_TRIED, *shape] that the module can answer."""
    try:
        return usable_inputs(module.eval(), shape, _TRIED)[-1]
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path}: {error.message}", error.hint) from error


@torch.no_grad()
def _tried(module: nn.Module, inputs: Tensor, path: str) -> Tensor:
    try:
        answer = module(inputs)
    except Exception as error:  # as above
        raise UnsupportedModel(f"{path}: fails on inputs {tuple(inputs.shape)}: {error}") from error
    if not isinstance(answer, Tensor):
        raise UnsupportedModel(f"{path}: answers with a {type(answer).__name__}, no tensor")
    return answer


def _require_kept_buffers(module: nn.Module, inputs: Tensor, path: str) -> None:
    before = {name: values.clone() for name, values in module.named_buffers()}
    _tried(module.train(), inputs, path)
    for name, values in module.named_buffers():
        if not torch.equal(values, before[name]):
            layer = name.rpartition(".")[0]
            kind = type(module.get_submodule(layer)).__name__
            raise UnsupportedModel(
                f"{path}: layer {layer!r} ({kind}) changes its buffer {name!r} in training, and only parameters travel",
                "Use GroupNorm or LayerNorm. In a frozen part keep it in evaluation mode: override the part's train().",
            )


def _not_last(path: str, name: str, head: Head) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path}: layer {name!r} ({type(head).__name__}) is not what the module ends with: without it and then through "
        "it the answers differ",
        "Nothing may come after the last layer, and it may be used only once: return its output as it is.",
    )
