"""Each record's own gradient, by the fastest way that is right for a model: what DP-SGD clips.

* :class:`BookKeeping` (Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at small cost",
  ICML 2023): one backward pass gives the gradient at each layer's *output*, and from that and the layer's input each
  record's gradient follows by a formula. What plain training wants and this does not, the parameters' gradients summed
  over the batch, is never computed; Opacus' hooks compute both.
* :class:`OpacusHooks`, for every other model: any layer that Opacus knows, any number of times.

**A record's norm is taken of the very numbers that are summed.** Ghost clipping (Li and others, ICLR 2022) finds the
norm by another way, sum_st <a_s, a_t> <g_s, g_t> over a convolution's places s and t, whose terms may cancel: in single
precision a record's norm can come out too small, and the record count for more than the clipping norm. A linear layer
has one place: there the norm is the product |a| |g|, which cannot cancel, and the gradient is never written out.

The rule: BookKeeping where it has a formula for each layer and agrees with a loop over records, else the hooks. That
the first is faster was measured on the networks of the studies and MONAI's others (``secure-fedhelp bench training``,
docs/benchmarks.md). PyTorch's expanded weights, there too, are faster than the hooks; but whether they can do a model
depends on the memory layout of what comes back from its loss, which the trial does not know: on a U-Net they agree with
the loop, and raise under a loss that puts channels last. So nothing is trained by them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional

from secure_fedhelp.errors import UnsupportedModel

#: The attributes of a parameter that hold raw private values while it is trained.
_PRIVATE: Final = ("grad_sample", "summed_grad")


class PerRecord(Protocol):
    """One parameter's gradients of b records."""

    def norms(self) -> Tensor:
        """The Euclidean norm of each record's gradient, [b]."""
        ...

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """The records' gradients times their weights [b], added up: the parameter's shape.

        A record of weight 0 is left out whatever it holds: 0 times infinity would not be 0.
        """
        ...


@dataclass(frozen=True, eq=False)
class Explicit:
    """Gradients written out, ``values`` [b, ...]. ``order`` names, for each axis of the parameter, theirs."""

    values: Tensor
    order: tuple[int, ...] | None = None

    def norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self._rows(), dim=1)
        return norms

    def weighted_sum(self, weights: Tensor) -> Tensor:
        weights, rows = _present(weights, self._rows())
        total = (weights @ rows).view(self.values.shape[1:])
        return total if self.order is None else total.permute(self.order)

    def _rows(self) -> Tensor:
        return self.values.reshape(len(self.values), math.prod(self.values.shape[1:]))


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """Gradients ``left`` [b, o] times ``right`` [b, i], one o x i matrix a record that is never written out."""

    left: Tensor
    right: Tensor

    def norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.left, dim=1) * torch.linalg.vector_norm(self.right, dim=1)
        return norms

    def weighted_sum(self, weights: Tensor) -> Tensor:
        weights, left, right = _present(weights, self.left, self.right)
        return (left * weights.unsqueeze(1)).T @ right


def _present(weights: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """``weights`` [b] and each of ``rows`` [b, ...], without the records of weight 0."""
    if bool((weights != 0).all()):
        return weights, *rows
    there = weights != 0
    return weights[there], *(values[there] for values in rows)


def per_record(sample: PerRecord | Tensor) -> PerRecord:
    """What a parameter's ``grad_sample`` holds, as one type: Opacus' hooks leave a tensor [b, ...]."""
    return Explicit(sample) if isinstance(sample, Tensor) else sample


class Gradients(Protocol):
    """A model whose every record keeps its gradient."""

    def __init__(self, model: nn.Module) -> None: ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """The model's outputs of inputs [b, ...]."""
        ...

    def backward(self, losses: Tensor) -> None:
        """From one loss a record, [b], leave ``grad_sample`` at each parameter."""
        ...

    def close(self) -> None:
        """Take off what was put on the model."""
        ...


class OpacusHooks:
    """Opacus' own way: full backward hooks on each layer, beside the ordinary gradients."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        self._wrapped = GradSampleModule(model, loss_reduction="sum", **settings)

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._wrapped(inputs)
        return outputs

    def backward(self, losses: Tensor) -> None:
        with warnings.catch_warnings():
            # Right as it is: inputs need no gradient, they are data.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._wrapped.to_standard_module()


class BookKeeping:
    """Gradients at the layers' outputs, and a formula for each layer; each must be used once in a pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = _layers(model)
        self._seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._hooks = [layer.register_forward_hook(self._keep) for layer in self._layers]

    @staticmethod
    def covers(model: nn.Module) -> bool:
        """Whether there is a formula for each layer, and no parameter belongs to two."""
        layers = _layers(model)
        own = [id(p) for layer in layers for p in layer.parameters(recurse=False)]
        return all(map(_has_formula, layers)) and len(set(own)) == len(own)

    def __call__(self, inputs: Tensor) -> Tensor:
        self._seen.clear()
        outputs: Tensor = self._model(inputs)
        return outputs

    def backward(self, losses: Tensor) -> None:
        """As for all; UnsupportedModel if a layer was used twice or left out, since its gradient would be wrong."""
        if len(self._seen) != len(self._layers) or {id(layer) for layer, *_ in self._seen} != set(
            map(id, self._layers)
        ):
            raise UnsupportedModel("a layer was used twice in one pass, or not at all")
        backprops = torch.autograd.grad(losses.sum(), [output for *_, output in self._seen])
        for (layer, inputs, _), backprop in zip(self._seen, backprops, strict=True):
            for parameter, sample in _FORMULAS[type(layer)](layer, inputs, backprop).items():
                parameter.grad_sample = sample  # type: ignore[attr-defined]  # where Opacus' optimiser looks
        self._seen.clear()

    def close(self) -> None:
        self._seen.clear()
        for hook in self._hooks:
            hook.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))


@contextmanager
def attached(way: type[Gradients], model: nn.Module) -> Iterator[Gradients]:
    """``model`` with the records' gradients kept apart; at the end all of them are taken off.

    Those are raw private values that nothing after training needs.
    """
    gradients = way(model)
    try:
        yield gradients
    finally:
        gradients.close()
        for p in model.parameters():
            p.grad = None
            for name in _PRIVATE:
                if hasattr(p, name):
                    delattr(p, name)


# -- formulas: (layer, its inputs, gradient at its outputs) to the gradients of its parameters ------------------------


def _linear(layer: nn.Linear, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    if inputs.dim() != 2:
        raise UnsupportedModel("a linear layer on more than one place of a record")
    samples: dict[Tensor, PerRecord] = {layer.weight: OuterProducts(backprops, inputs)}
    return samples if layer.bias is None else samples | {layer.bias: Explicit(backprops)}


def _conv2d(layer: nn.Conv2d, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    """A record's gradient is its output gradients [o, places] times its patches [places, patch].

    Cutting patches is most of the work, and is as fast as the runs that are copied are long: a kernel's width times
    channels where channels are last, in about half of the time that Opacus' order takes; but with one channel a row of
    places is longer.
    """
    (b, channels, height, width), (up, left) = inputs.shape, map(int, layer.padding)
    padded = inputs.new_zeros(b, height + 2 * up, width + 2 * left, channels)
    padded[:, up : up + height, left : left + width] = inputs.permute(0, 2, 3, 1)
    record, row, column, _ = padded.stride()
    (down, right), (apart, beside) = layer.stride, layer.dilation
    places, kernel, outputs = backprops.shape[2:], layer.kernel_size, backprops.flatten(2)
    at_places, in_kernel = (row * down, column * right), (row * apart, column * beside)
    if channels == 1:
        patches = padded.as_strided((b, *kernel, *places), (record, *in_kernel, *at_places))
        values = torch.bmm(patches.reshape(b, -1, math.prod(places)), outputs.transpose(1, 2))
        weight = Explicit(values.view(b, *kernel, layer.out_channels, 1), (2, 3, 0, 1))
    else:
        patches = padded.as_strided((b, *places, *kernel, channels), (record, *at_places, *in_kernel, 1))
        values = torch.bmm(outputs, patches.reshape(b, math.prod(places), -1))
        weight = Explicit(values.view(b, layer.out_channels, *kernel, channels), (0, 3, 1, 2))
    samples: dict[Tensor, PerRecord] = {layer.weight: weight}
    return samples if layer.bias is None else samples | {layer.bias: Explicit(outputs.sum(2))}


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    """The layer scales and shifts each channel of what it has normalised."""
    normalised = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    flat = (*backprops.shape[:2], -1)
    scales, shifts = (normalised * backprops).reshape(flat).sum(2), backprops.reshape(flat).sum(2)
    return {layer.weight: Explicit(scales), layer.bias: Explicit(shifts)}


_FORMULAS: dict[type[nn.Module], Callable[..., dict[Tensor, PerRecord]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
}


def _has_formula(layer: nn.Module) -> bool:
    """By exact type: a subclass may compute something else."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in _FORMULAS


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that have parameters of their own."""
    return [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]


# -- which way is right ------------------------------------------------------------------------------------------------

#: What torch and Opacus raise on models that they cannot follow.
_FAILURES = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError, AttributeError)
#: What was found right for a structure. The trial takes as long as some steps, and a study makes its models anew each
#: round; whether a way is right does not depend on the weights.
_CHOSEN: dict[tuple[object, ...], type[Gradients]] = {}


def choose(model: nn.Module, input_shape: tuple[int, ...]) -> type[Gradients]:
    """The fastest way that gives each record's gradient; UnsupportedModel if none does.

    Two random records are sent forth and back together, and each alone through plain autograd: the gradients must be
    the same. That sees what no list of layers does: a mean over the batch in the middle of a model, or a parameter that
    is also used outside of its layer. Dropout layers are off meanwhile; a model that draws random numbers otherwise
    cannot be told from those, and is refused too.
    One trial for all models of the same modules, settings and input shape.
    """
    modules = tuple((name, type(module), module.extra_repr()) for name, module in model.named_modules())
    parameters = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
    key = (modules, parameters, input_shape)
    if key not in _CHOSEN:
        _CHOSEN[key] = _tried(model, input_shape)
    return _CHOSEN[key]


def _tried(model: nn.Module, input_shape: tuple[int, ...]) -> type[Gradients]:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(size=(2, *input_shape)).astype(np.float32))
    with without_dropout(model):
        return _first_right(model, inputs)


def _first_right(model: nn.Module, inputs: Tensor) -> type[Gradients]:
    try:
        right = _agrees(OpacusHooks, model, inputs)
    except _FAILURES as error:
        raise UnsupportedModel(f"no gradient of each record: {str(error).splitlines()[0]}") from error
    if not right:
        raise UnsupportedModel("a record's gradient is another one when other records are beside it")
    if not BookKeeping.covers(model):
        return OpacusHooks
    try:
        return BookKeeping if _agrees(BookKeeping, model, inputs) else OpacusHooks
    except (RuntimeError, UnsupportedModel):
        return OpacusHooks


def _agrees(way: type[Gradients], model: nn.Module, inputs: Tensor) -> bool:
    """Whether gradients and norms of these records are those of a loop over them."""
    with attached(way, model) as gradients:
        gradients.backward(_trial_losses(gradients(inputs)))
        parameters = dict(model.named_parameters())
        unreached = [name for name, p in parameters.items() if getattr(p, "grad_sample", None) is None]
        if unreached:
            raise UnsupportedModel(
                f"no gradient reaches {', '.join(unreached)}: train what is used, as a module of its own"
            )
        samples = [per_record(p.grad_sample) for p in parameters.values()]  # type: ignore[attr-defined]
        norms = torch.stack([sample.norms() for sample in samples]).norm(dim=0)
        rows = [torch.cat([s.weighted_sum(one).flatten() for s in samples]) for one in torch.eye(len(inputs))]
    for record, row, norm in zip(inputs, rows, norms, strict=True):
        alone = torch.autograd.grad(_trial_losses(model(record.unsqueeze(0))).sum(), list(parameters.values()))
        expected = torch.cat([gradient.flatten() for gradient in alone])
        tolerance = 1e-3 * float(expected.norm())
        if not (float((row - expected).norm()) <= tolerance and abs(float(norm - expected.norm())) <= tolerance):
            return False
    return True


def _trial_losses(outputs: Tensor) -> Tensor:
    """One number a record, [b], in which each output has a weight of its own."""
    flat = outputs.flatten(1)
    return flat @ torch.from_numpy(np.random.default_rng(1).normal(size=flat.shape[1]).astype(np.float32))


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout differs by chance and from record to record, and mixes nothing: it is off while a model is tried."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
