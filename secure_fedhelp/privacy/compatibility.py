"""Whether a network can be trained record by record: tried on made-up inputs, not believed.

DP-SGD clips the gradient of each record, so each must be a function of that record and the parameters alone. A network
of somebody else's may mix the records of a batch in any line of its code, so the answers to a batch are held against
those to each record by itself, and the layer is named where they part. Which way then gives each record's gradient is
tried too (privacy/gradients.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel

#: Records tried together; relative and absolute differences that rounding makes between a batch and one of it.
TRIED = 2
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_PASSES = 3
_RANDOM = "Draw random numbers in nn.Dropout layers alone: what is drawn elsewhere cannot be told from mixing records."
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def require_known_settings(model: nn.Module) -> None:
    """UnsupportedModel with the layer's name for settings that are wrong for single records whatever the inputs are.

    ``model`` is in training mode; a layer that stays in evaluation mode all the same, as a frozen encoder's batch norm
    should, answers by constants.
    """
    for name, layer in model.named_modules():
        kept = getattr(layer, "track_running_stats", False)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or not kept):
            raise _refused(
                name,
                layer,
                "mixes the records of a batch",
                "Use GroupNorm or LayerNorm. In a frozen part keep it in evaluation mode: override the part's train().",
            )
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and kept and layer.training:
            what = "keeps figures of private records in running_mean and running_var, without noise"
            raise _refused(name, layer, what, "Leave track_running_stats out.")
        if isinstance(layer, _EMBEDDINGS):
            _require_plain_embedding(name, layer)


def _require_plain_embedding(name: str, layer: nn.Embedding | nn.EmbeddingBag) -> None:
    if layer.max_norm is not None:
        raise _refused(name, layer, "has max_norm and changes its rows while it answers", "Leave max_norm out.")
    if layer.scale_grad_by_freq:
        what = "has scale_grad_by_freq: a row's gradient depends on how many records of the batch ask for it"
        raise _refused(name, layer, what, "Leave scale_grad_by_freq out.")
    if layer.sparse and layer.weight.requires_grad:
        raise _refused(name, layer, "has sparse gradients, and noise is on every value", "Leave sparse out.")


def usable_inputs(model: nn.Module, input_shape: tuple[int, ...], count: int = TRIED) -> list[Tensor]:
    """Made-up inputs [count, *input_shape], float32 as records are, that the network can answer: one kind or two.

    Normal ones; and whole numbers from 0 on where the network has embeddings or cannot take the others. They stay below
    the fewest rows of an embedding, and padding rows are among them. UnsupportedModel, naming the layer, if it takes
    neither.
    """
    drawn = np.random.default_rng(0)
    embeddings = [layer for layer in model.modules() if isinstance(layer, _EMBEDDINGS)]
    normal = torch.from_numpy(drawn.normal(size=(count, *input_shape)).astype(np.float32))
    found, refused = list[Tensor](), list[UnsupportedModel]()
    for inputs in (normal, _whole_numbers((count, *input_shape), embeddings, drawn)):
        if inputs is not normal and found and not embeddings:
            break
        try:
            with torch.no_grad():
                _answers(model, inputs)
        except UnsupportedModel as error:
            refused.append(error)
        else:
            found.append(inputs)
    if not found:
        raise refused[-1 if embeddings else 0]
    return found


def _whole_numbers(
    shape: tuple[int, ...], embeddings: list[nn.Embedding | nn.EmbeddingBag], drawn: np.random.Generator
) -> Tensor:
    rows = min((layer.num_embeddings for layer in embeddings), default=2)
    values = drawn.integers(0, rows, size=shape)
    for layer in embeddings:
        if layer.padding_idx is not None and layer.padding_idx < rows:
            values[drawn.random(shape) < 0.25] = layer.padding_idx
    return torch.from_numpy(values.astype(np.float32))


def require_records_apart(model: nn.Module, inputs: Tensor) -> None:
    """UnsupportedModel, naming the layer, unless a batch is answered as each of its records alone, twice over.

    ``model`` is in training mode and dropout is off, since that would differ by chance.
    """
    kept = {name: values.clone() for name, values in model.named_buffers()}
    # Several passes: another thread may draw from the same generator in one of them.
    drawing = [found for _ in range(_PASSES) if (found := _first_that_draws(model, inputs)) is not None]
    if len(drawing) == _PASSES:
        raise _refused(*drawing[0], "draws random numbers", _RANDOM)
    together, again = _answers(model, inputs), _answers(model, inputs)
    for name, values in model.named_buffers():
        if not torch.equal(values, kept[name]):
            layer = model.get_submodule(name.rpartition(".")[0])
            what = f"changes its buffer {name!r} in training, from private records and without noise"
            raise _refused(name.rpartition(".")[0], layer, what, "Use GroupNorm or LayerNorm, or freeze the layer.")
    for name, values in again.items():
        if not _same(together[name], values):
            layer = model.get_submodule(name)
            raise _refused(name, layer, "answers the same inputs twice differently", _RANDOM)
    for number in range(len(inputs)):
        alone = _answers(model, inputs[number : number + 1])
        for name, values in alone.items():
            if name in together and not _same(together[name][number], values[0]):
                hint = "Let a record's answer depend on that record alone: no mean, norm or order over the first axis."
                raise _refused(name, model.get_submodule(name), "mixes the records of a batch", hint)


def _first_that_draws(model: nn.Module, inputs: Tensor) -> tuple[str, nn.Module] | None:
    """The innermost layer that draws from PyTorch's generator, if one does: name and layer."""
    states, found, handles = list[Tensor](), list[tuple[str, nn.Module]](), []

    def after(name: str, layer: nn.Module) -> None:
        if not torch.equal(states.pop(), torch.get_rng_state()):
            found.append((name, layer))

    for name, layer in model.named_modules():
        handles.append(layer.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state())))
        handles.append(layer.register_forward_hook(lambda layer, *_, name=name: after(name, layer)))
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _answers(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer answers, in the order in which they do; the whole network's own has the name ''."""
    answers, running, handles = dict[str, Tensor](), [""], []

    def before(name: str) -> None:
        running.append(name)

    def after(name: str, answer: object) -> None:
        running.pop()
        if isinstance(answer, Tensor) and answer.ndim and len(answer) == len(inputs):
            answers.pop(name, None)  # one that is used again stands where it answered last
            answers[name] = answer.detach().clone()  # a layer after it may work in place

    for name, layer in model.named_modules():
        handles.append(layer.register_forward_pre_hook(lambda _, __, name=name: before(name)))
        handles.append(layer.register_forward_hook(lambda _, __, answer, name=name: after(name, answer)))
    try:
        model(inputs)
    except Exception as error:  # somebody else's code may raise anything
        raise _no_answer(model, running[-1], error) from error
    finally:
        for handle in handles:
            handle.remove()
    if "" not in answers:
        raise UnsupportedModel("the network does not answer each record of a batch with a tensor")
    if answers[""].dtype != torch.float32:
        raise UnsupportedModel(f"the network answers in {answers[''].dtype}: records and parameters are float32")
    return answers


def _no_answer(model: nn.Module, name: str, error: Exception) -> UnsupportedModel:
    layer, said = model.get_submodule(name), (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(layer, _EMBEDDINGS):
        return _refused(
            name,
            layer,
            f"cannot take what it is asked for: {said}",
            "Records are float32. Let the network make row numbers itself, and keep them within the rows: "
            "inputs.long().clamp(0, rows - 1). Whole numbers are exact up to 16,777,216.",
        )
    return _refused(name, layer, f"fails on inputs: {said}", "Inputs are float32 [records, *input_shape].")


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE * scale)


def _refused(name: str, layer: nn.Module, what: str, hint: str | None = None) -> UnsupportedModel:
    where = f"layer {name!r} ({type(layer).__name__})" if name else f"the network ({type(layer).__name__})"
    return UnsupportedModel(f"{where} {what}", hint)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout differs by chance and from record to record, and mixes nothing: it is off while a model is tried."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in layers]
    inner = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention | nn.RNNBase)]
    rates = [float(module.dropout) for module in inner]
    try:
        for layer in layers:
            layer.eval()
        for module in inner:
            module.dropout = 0.0
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
        for module, rate in zip(inner, rates, strict=True):
            module.dropout = rate
