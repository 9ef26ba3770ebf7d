"""Which way gives a network's every record its gradient: tried on made-up records, before one of a patient is seen."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from contextlib import nullcontext
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.privacy.compatibility import (
    TRIED,
    answered,
    require_apart,
    require_records_apart,
    usable_inputs,
    without_dropout,
)
from secure_fedhelp.privacy.gradients import BookKeeping, Gradients, OpacusHooks, RecordByRecord, attached, per_record
from secure_fedhelp.privacy.odd_records import decides_by_values, moved, odd_records
from secure_fedhelp.privacy.structure import structure

#: What torch and Opacus raise on models that they cannot follow.
_FAILURES = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, AttributeError, UnsupportedModel)
#: The fastest first.
_WAYS: Final[tuple[type[Gradients], ...]] = (BookKeeping, OpacusHooks, RecordByRecord)
#: Parameters that a refusal names.
_NAMED = 4
#: What was found right for a structure. The trial takes as long as some steps, and a study makes its models anew each
#: round. Weights that are trained are not in its key: the trial moves them too.
_CHOSEN: dict[tuple[Hashable, tuple[int, ...]], type[Gradients]] = {}


def choose(model: nn.Module, input_shape: tuple[int, ...]) -> type[Gradients]:
    """The fastest way that gives each record's gradient; UnsupportedModel, naming the layer, if none does.

    Made-up records, odd ones among them, are sent forth and back together, and each alone through plain autograd: the
    gradients must be the same, at the weights of the start and at others. That sees what no list of layers does: a mean
    over the batch in the middle of a model, or a parameter that is also used outside of its layer. Dropout is off
    meanwhile; a model that draws random numbers otherwise cannot be told from those, and is refused too. Code that
    reads values, and may do anything by them, is trained record by record. One trial for all models of one structure
    (privacy/structure.py) and input shape.
    """
    known = structure(model)
    if known is None:
        return _tried(model, input_shape)
    if (known, input_shape) not in _CHOSEN:
        _CHOSEN[known, input_shape] = _tried(model, input_shape)
    return _CHOSEN[known, input_shape]


def _tried(model: nn.Module, input_shape: tuple[int, ...]) -> type[Gradients]:
    with without_dropout(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is slow or odd about a way that may not be taken
        usable = usable_inputs(model, input_shape)
        decides = any(decides_by_values(partial(model, inputs)) for inputs in usable)
        for inputs in usable:
            require_records_apart(model, inputs, every_layer=not decides)
            _require_reached(model, inputs)
        odd = [torch.cat([inputs, answered(model, odd_records(inputs))]) for inputs in usable]
        with moved(model):
            elsewhere = all(_finite(model, inputs) for inputs in usable)
            for inputs in odd if elsewhere else ():
                require_apart(model, inputs, every_layer=not decides)
        if decides:
            return RecordByRecord
        for way in _WAYS:
            if way is BookKeeping and not BookKeeping.covers(model):
                continue
            try:
                if not all(_agrees(way, model, inputs) for inputs in usable):
                    continue
                with moved(model) if elsewhere else nullcontext():
                    if all(_agrees(way, model, inputs) for inputs in odd):
                        return way
            except _FAILURES:
                continue
    raise UnsupportedModel("a record's gradient is another one when other records are beside it")


def _finite(model: nn.Module, inputs: Tensor) -> bool:
    """Whether the network works with the weights that it has now: some may not be moved freely."""
    try:
        with torch.no_grad():
            return bool(torch.isfinite(model(inputs)).all())
    except _FAILURES:
        return False


def _require_reached(model: nn.Module, inputs: Tensor) -> None:
    """UnsupportedModel, naming them, if there are parameters to train that get no gradient of any record."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        found = torch.autograd.grad(_trial_losses(model(inputs)).sum(), [*named.values()], allow_unused=True)
    except _FAILURES as error:
        raise UnsupportedModel(f"no gradient of each record: {str(error).splitlines()[0]}") from error
    unreached = [name for name, gradient in zip(named, found, strict=True) if gradient is None]
    if unreached:
        more = f" and {len(unreached) - _NAMED} more" if len(unreached) > _NAMED else ""
        raise UnsupportedModel(
            f"no gradient reaches {', '.join(unreached[:_NAMED])}{more}",
            "Leave out what is not used, or freeze it: requires_grad_(False).",
        )


def _of_one(model: nn.Module, record: Tensor, copies: int = 1) -> Tensor:
    """The gradient of one record by itself, or of the last of its copies, [parameters that are trained]."""
    weights = [p for p in model.parameters() if p.requires_grad]
    loss = _trial_losses(model(record.expand(copies, *record.shape)))[-1]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    parts = [torch.zeros_like(p) if one is None else one for one, p in zip(found, weights, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def _agrees(way: type[Gradients], model: nn.Module, inputs: Tensor) -> bool:
    """Whether gradients and norms of these records are those of a loop over them.

    One that is NaN is there for the others. Odd ones may have gradients near zero, of which only rounding is left: an
    error is held against the first records' gradients too. And rounding may become anything in a constant record that
    is normalised, say: then it does so among copies of it, too.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    with attached(way, model) as gradients:
        gradients.backward(_trial_losses(gradients(inputs)))
        samples = [per_record(p.grad_sample) for p in weights]  # type: ignore[attr-defined]
    norms, usual = torch.stack([sample.norms() for sample in samples]).norm(dim=0), 0.0
    for number, (record, norm) in enumerate(zip(inputs, norms, strict=True)):
        if bool(record.isnan().any()):
            continue
        only = torch.zeros(len(inputs))
        only[number] = 1.0
        row = torch.cat([sample.weighted_sum(only).flatten() for sample in samples])
        alone = _of_one(model, record)
        length = float(alone.norm())
        usual = max(usual, length) if number < TRIED else usual
        allowed = 1e-3 * (length if number < TRIED else max(length, usual))
        if max(float((row - alone).norm()), abs(float(norm) - length)) <= allowed:
            continue
        if number < TRIED or float((_of_one(model, record, len(inputs)) - alone).norm()) <= allowed:
            return False
    return True


def _trial_losses(outputs: Tensor) -> Tensor:
    """One number a record, [b], in which each output has a weight of its own."""
    flat = outputs.flatten(1)
    return flat @ torch.from_numpy(np.random.default_rng(1).normal(size=flat.shape[1]).astype(np.float32))
