"""Whether a network can be trained record by record: tried on random inputs, not believed.

DP-SGD clips the gradient of each record, so each must be a function of that record and the parameters alone. Opacus'
own rules know layers by type; a network of somebody else's may mix the records of a batch in any line of its code, or
use a parameter where Opacus' hooks do not see it. So the answers and the gradients of a batch are held against those
of each record by itself, and the layer is named where they part.
"""

from __future__ import annotations

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.privacy.gradients import without_dropout

#: Records tried together; relative and absolute differences that rounding makes between a batch and one of it.
_TRIED, _RELATIVE, _ABSOLUTE = 2, 1e-3, 1e-5
_FAILURES = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, AttributeError)


def require_known_layers(model: nn.Module) -> None:
    """UnsupportedModel with the layer's name if Opacus' own rules refuse one."""
    for name, layer in model.named_modules():
        validate = ModuleValidator.VALIDATORS.get(type(layer))
        if validate is not None and (errors := validate(layer)):
            raise UnsupportedModel(f"layer {name!r} ({type(layer).__name__}): {errors[0]}")


def name_the_layer(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """UnsupportedModel with the layer's name, for a model whose records do not stay apart; nothing if none is found."""
    wrapped = GradSampleModule(model, loss_reduction="sum")
    try:
        require_records_apart(wrapped, input_shape)
    finally:
        wrapped.to_standard_module()
        for p in model.parameters():
            p.grad = None
            if hasattr(p, "grad_sample"):
                del p.grad_sample


def require_records_apart(wrapped: GradSampleModule, input_shape: tuple[int, ...]) -> None:
    """UnsupportedModel, naming the layer, unless a batch answers and learns as each of its records alone.

    ``wrapped`` is in training mode; dropout is off while it is tried, since it would differ by chance.
    """
    model = wrapped._module
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(_TRIED, *input_shape, generator=drawn)
    with without_dropout(model):
        together = _answers(wrapped, inputs)
        output = together[""]
        slope = torch.randn(output.shape, generator=drawn)
        found = _each_gradient(wrapped, output, slope)
        wrapped.disable_hooks()
        for number in range(_TRIED):
            alone = _answers(model, inputs[number : number + 1])
            for name, values in alone.items():
                if not _same(together[name][number], values[0]):
                    kind = type(model.get_submodule(name)).__name__
                    raise UnsupportedModel(f"layer {name!r} ({kind}) mixes the records of a batch")
            _require_gradients(model, found, alone[""], slope[number : number + 1], number)


def _answers(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer answers, in the order in which they do; the whole network's own has the name ''."""
    network = model._module if isinstance(model, GradSampleModule) else model
    answers, running, handles = {}, [""], []

    def before(name: str) -> None:
        running.append(name)

    def after(name: str, answer: object) -> None:
        running.pop()
        if isinstance(answer, Tensor) and answer.ndim and len(answer) == len(inputs):
            answers[name] = answer

    for name, layer in network.named_modules():
        handles.append(layer.register_forward_pre_hook(lambda _, __, name=name: before(name)))
        handles.append(layer.register_forward_hook(lambda _, __, answer, name=name: after(name, answer)))
    try:
        model(inputs)
    except _FAILURES as error:
        raise _no_gradient(network, [running[-1]], error) from error
    finally:
        for handle in handles:
            handle.remove()
    if "" not in answers:
        raise UnsupportedModel("the network does not answer each record of a batch with a tensor")
    return answers


def _each_gradient(wrapped: GradSampleModule, output: Tensor, slope: Tensor) -> dict[str, Tensor]:
    model = wrapped._module
    try:
        (output * slope).sum().backward()  # type: ignore[no-untyped-call]
    except _FAILURES as error:
        # Where a backward pass breaks, nobody says; a layer that Opacus has to work out by itself is the likely one.
        owners = [(name, layer) for name, layer in model.named_modules() if [*layer.parameters(recurse=False)]]
        strange = [name for name, layer in owners if type(layer) not in GradSampleModule.GRAD_SAMPLERS]
        raise _no_gradient(model, strange, error) from error
    found = {name: getattr(p, "grad_sample", None) for name, p in model.named_parameters()}
    if unreached := [name for name, values in found.items() if values is None]:
        raise UnsupportedModel(
            f"no gradient reaches {', '.join(unreached)}: train what is used, as a module of its own"
        )
    return {name: values.clone() for name, values in found.items() if values is not None}


def _require_gradients(model: nn.Module, found: dict[str, Tensor], output: Tensor, slope: Tensor, number: int) -> None:
    """The gradients of record ``number`` in the batch against those that it has alone."""
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad((output * slope).sum(), list(parameters.values()), allow_unused=True)
    for name, values in zip(parameters, expected, strict=True):
        alone = torch.zeros_like(parameters[name]) if values is None else values
        if found[name].shape[:1] != (_TRIED,) or not _same(found[name][number], alone):
            layer = name.rpartition(".")[0]
            kind = type(model.get_submodule(layer)).__name__
            raise UnsupportedModel(f"layer {layer!r} ({kind}): the gradient of {name!r} for one record is not its own")


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE * scale)


def _no_gradient(model: nn.Module, names: list[str], error: Exception) -> UnsupportedModel:
    layers = ", ".join(f"{name!r} ({type(model.get_submodule(name)).__name__})" for name in names)
    return UnsupportedModel(
        f"no gradient of each record: layer {layers or 'unknown'}: {str(error).splitlines()[0]}",
        "Make it of Linear, Conv, GroupNorm, LayerNorm and Embedding layers, each called as it is, nothing in place.",
    )
