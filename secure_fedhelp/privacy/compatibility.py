"""Whether a network can be trained record by record: tried on made-up inputs, not believed.

DP-SGD clips the gradient of each record, so each must be a function of that record and the parameters alone. A network
of somebody else's may mix the records of a batch in any line of its code, so the answers to a batch are held against
those to each record by itself, and the layer is named where they part. Which way then gives each record's gradient is
tried too (privacy/choosing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.privacy.odd_records import MANY, odd_records

#: Records tried together; relative and absolute differences that rounding makes between a batch and one of it.
TRIED = 2
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_PASSES = 3
_RANDOM = "Draw random numbers in nn.Dropout layers alone: what is drawn elsewhere cannot be told from mixing records."
_FORGET = "Let a pass leave nothing behind: what is kept of one batch would be in the gradients of the next."
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
    for name, layer in model.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            hint = "Return the module that it was made from: layers of compiled code cannot be looked at."
            raise _refused(name, layer, "is compiled by TorchScript", hint)
    drawn = np.random.default_rng(0)
    embeddings = [layer for layer in model.modules() if isinstance(layer, _EMBEDDINGS)]
    normal = torch.from_numpy(drawn.normal(size=(count, *input_shape)).astype(np.float32))
    found, refused = list[Tensor](), list[UnsupportedModel]()
    for inputs in (normal, _whole_numbers((count, *input_shape), embeddings, drawn)):
        if inputs is not normal and found and not embeddings:
            break
        given = inputs.clone()
        try:
            with torch.no_grad():
                _answers(model, inputs)
        except UnsupportedModel as error:
            refused.append(error)
            continue
        if not torch.equal(inputs, given):
            raise _refused("", model, "writes into its inputs", "Let it begin with inputs = inputs.clone().")
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


def require_records_apart(model: nn.Module, inputs: Tensor, every_layer: bool = True) -> None:
    """UnsupportedModel, naming the layer, unless a batch is answered as each of its records alone, and time and again.

    Beside ``inputs`` stand odd records (privacy/odd_records.py), and many. ``model`` is in training mode and dropout is
    off, since that would differ by chance. ``every_layer`` False: the whole network's answer decides, and layers may
    have other rows before them, as is right where each record goes through the network alone.
    """
    kept = {name: values.detach().clone() for name, values in _values(model)}
    # Several passes: another thread may draw from the same generator in one of them.
    drawing = [found for _ in range(_PASSES) if (found := _first_that_draws(model, inputs)) is not None]
    if len(drawing) == _PASSES:
        raise _refused(*drawing[0], "draws random numbers", _RANDOM)
    together, counted = _answers(model, inputs), _plain(model)
    again = _answers(model, inputs)
    _require_unchanged(model, kept)
    for (name, attribute), value in _plain(model).items():
        if counted.get((name, attribute), value) != value:
            what = f"changes its attribute {attribute!r} with each pass: what it answers later cannot be tried now"
            raise _refused(name, model.get_submodule(name), what, _FORGET)
    _require_same(model, together, again, _RANDOM)
    _require_apart(model, inputs, together, every_layer)
    odd = answered(model, odd_records(inputs))
    batch = torch.cat([inputs, odd])
    with_odd = _answers(model, batch)
    _require_unchanged(model, kept)
    _require_same(model, together, _answers(model, inputs), _FORGET)
    _require_apart(model, batch, with_odd, every_layer)
    _require_apart_from_many(model, batch, together[""])


def _values(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _plain(model: nn.Module) -> dict[tuple[str, str], object]:
    """Numbers that modules hold, and how much is in their lists and tensors: by module and attribute."""
    found: dict[tuple[str, str], object] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, int | float):
                found[name, attribute] = repr(value)
            elif isinstance(value, Tensor):
                found[name, attribute] = tuple(value.shape)
            elif isinstance(value, Sized):
                found[name, attribute] = len(value)
    return found


def _require_unchanged(model: nn.Module, kept: dict[str, Tensor]) -> None:
    for name, values in _values(model):
        if not torch.equal(values, kept[name]):
            layer = name.rpartition(".")[0]
            kind = "parameter" if isinstance(values, nn.Parameter) else "buffer"
            what = f"changes its {kind} {name!r} in training, from private records and without noise"
            raise _refused(layer, model.get_submodule(layer), what, "Use GroupNorm or LayerNorm, or freeze the layer.")


def _require_same(model: nn.Module, together: dict[str, Tensor], again: dict[str, Tensor], hint: str) -> None:
    for name, values in again.items():
        if not _same(together[name], values):
            raise _refused(name, model.get_submodule(name), "answers the same inputs twice differently", hint)


def require_apart(model: nn.Module, batch: Tensor, every_layer: bool) -> None:
    """UnsupportedModel unless ``batch``, of usual records and then odd ones, is answered as each of them alone."""
    _require_apart(model, batch, _answers(model, batch), every_layer)


def _require_apart(model: nn.Module, batch: Tensor, together: dict[str, Tensor], every_layer: bool) -> None:
    for number, record in enumerate(batch):
        if bool(record.isnan().any()):
            continue  # it is there for the others: nothing of it may come to them
        alone = _answers(model, record.unsqueeze(0))
        apart = [name for name in alone if name in together and not _same(together[name][number], alone[name][0])]
        if not apart or not (every_layer or "" in apart):
            continue
        if number >= TRIED:
            # Rounding may become anything in the answer to a constant record that is normalised, say. Then it does so
            # among copies of that record, too, where there is nothing else to mix with.
            copies = _answers(model, record.expand_as(batch))
            apart = [n for n in apart if n in copies and _same(copies[n][number], alone[n][0])]
        if apart:
            raise _mixes(model, apart[0])


def _require_apart_from_many(model: nn.Module, batch: Tensor, together: Tensor) -> None:
    """Records may be taken in groups, or otherwise from some size of a batch on. ``together`` is of the usual ones."""
    numbers = [number % len(batch) for number in range(MANY)]
    with torch.no_grad():
        many = model(batch[numbers])
    for number, values in zip(numbers, many, strict=True):
        if number < len(together) and not _same(values, together[number]):
            raise _mixes(model, "")


def answered(model: nn.Module, records: Tensor) -> Tensor:
    """Those of ``records`` that the network answers by themselves."""
    there = []
    for record in records:
        try:
            with torch.no_grad():
                _answers(model, record.unsqueeze(0))
        except UnsupportedModel:
            continue
        there.append(record)
    return torch.stack(there) if there else records[:0]


def _mixes(model: nn.Module, name: str) -> UnsupportedModel:
    hint = "Let a record's answer depend on that record alone: no mean, norm or order over the first axis."
    return _refused(name, model.get_submodule(name), "mixes the records of a batch", hint)


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
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE * scale, equal_nan=True)


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
