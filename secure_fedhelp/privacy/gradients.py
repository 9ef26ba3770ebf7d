"""Each record's own gradient, by the fastest way that is right for a model: what DP-SGD clips.

* :class:`BookKeeping` (Bu, Wang, Zha and Karypis, "Differentially private optimization on large model at small cost",
  ICML 2023): one backward pass gives the gradient at each layer's *output*, and from that and the layer's input each
  record's gradient follows by a formula. What plain training wants and this does not, the parameters' gradients summed
  over the batch, is never computed; Opacus' hooks compute both.
* :class:`OpacusHooks`: any layer that Opacus knows, any number of times.
* :class:`RecordByRecord`, for every other model: each record alone through plain autograd, which is right by definition
  and many times slower. Attention, recurrent layers and weights that are used outside of their layers go this way.

Frozen parameters (``requires_grad`` False) have no gradient, enter no norm and get no noise.

**A record's norm is taken of the very numbers that are summed.** Ghost clipping (Li and others, ICLR 2022) finds the
norm by another way, sum_st <a_s, a_t> <g_s, g_t> over a convolution's places s and t, whose terms may cancel: in single
precision a record's norm can come out too small, and the record count for more than the clipping norm. A linear layer
has one place: there the norm is the product |a| |g|, which cannot cancel, and the gradient is never written out.

The rule (privacy/choosing.py): the first of the three that agrees with a loop over records in a trial. That
book-keeping is faster was measured on the networks of the studies and MONAI's others (``secure-fedhelp bench
training``, docs/benchmarks.md). PyTorch's expanded weights, there too, are faster than the hooks; but whether they can
do a model depends on the memory layout of what comes back from its loss, which the trial does not know: on a U-Net they
agree with the loop, and raise under a loss that puts channels last. So nothing is trained by them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

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

    def __len__(self) -> int:
        return len(self.values)

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

    def __len__(self) -> int:
        return len(self.left)


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
        for layer in self._wrapped._module.modules():
            # A padding row is never trained: torch gives it no gradient, and Opacus (1.6) does.
            if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and layer.weight.requires_grad:
                sample = getattr(layer.weight, "grad_sample", None)
                if isinstance(sample, Tensor):
                    sample[:, layer.padding_idx] = 0

        _require_rows(self._wrapped._module, len(losses))

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
        """Whether there is a formula for each layer, no parameter belongs to two, and no layer works in place."""
        if any(getattr(module, "inplace", False) for module in model.modules()):
            return False  # what a layer answered would be another value by the time its gradient is asked for
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
                if parameter.requires_grad:
                    parameter.grad_sample = sample  # type: ignore[attr-defined]  # where Opacus' optimiser looks
        self._seen.clear()
        _require_rows(self._model, len(losses))

    def close(self) -> None:
        self._seen.clear()
        for hook in self._hooks:
            hook.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))


class RecordByRecord:
    """Each record forth and back by itself, through plain autograd."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._outputs = model, list[Tensor]()

    def __call__(self, inputs: Tensor) -> Tensor:
        self._outputs = [self._model(inputs[i : i + 1]) for i in range(len(inputs))]
        return torch.cat(self._outputs)

    def backward(self, losses: Tensor) -> None:
        slopes = torch.autograd.grad(losses.sum(), self._outputs)
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        samples = [torch.zeros(len(slopes), *p.shape, dtype=p.dtype) for p in parameters]
        for number, (output, slope) in enumerate(zip(self._outputs, slopes, strict=True)):
            found = torch.autograd.grad(output, parameters, slope, allow_unused=True)
            for sample, gradient in zip(samples, found, strict=True):
                if gradient is not None:
                    sample[number] = gradient
        for parameter, sample in zip(parameters, samples, strict=True):
            parameter.grad_sample = sample  # type: ignore[attr-defined]  # where Opacus' optimiser looks
        self._outputs = []

    def close(self) -> None:
        self._outputs = []


def _require_rows(model: nn.Module, count: int) -> None:
    """UnsupportedModel unless each parameter has a row for each of ``count`` records.

    Rows of which one record has several would each be clipped by themselves, and of a layer that saw a part of the
    batch it is not known whose they are.
    """
    for name, p in model.named_parameters():
        sample = getattr(p, "grad_sample", None)
        if p.requires_grad and (not isinstance(sample, Tensor | Explicit | OuterProducts) or len(sample) != count):
            raise UnsupportedModel(f"{name} has no gradient of its own for each record of a batch")


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
    padded = _padded(layer, inputs)
    b, _, _, channels = padded.shape
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


def _padded(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """The inputs as the layer pads them, with channels last: [b, height, width, channels]."""
    (b, channels, height, width), padding = inputs.shape, layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        padded = functional.pad(inputs, padding, mode=layer.padding_mode)
        return padded.permute(0, 2, 3, 1).contiguous()
    left, right, up, down = padding
    padded = inputs.new_zeros(b, height + up + down, width + left + right, channels)
    padded[:, up : up + height, left : left + width] = inputs.permute(0, 2, 3, 1)
    return padded


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    """The layer scales and shifts each channel of what it has normalised."""
    normalised = functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    flat = (*backprops.shape[:2], -1)
    scales, shifts = (normalised * backprops).reshape(flat).sum(2), backprops.reshape(flat).sum(2)
    return _scaled_and_shifted(layer, scales, shifts)


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    """As for groups: each value of the last axes has a scale and a shift, for all places of a record."""
    normalised, shape = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps), layer.normalized_shape
    if inputs.dim() <= len(shape):
        raise UnsupportedModel("a layer norm over the records of a batch")
    flat = (len(inputs), -1, *shape)
    scales, shifts = (normalised * backprops).reshape(flat).sum(1), backprops.reshape(flat).sum(1)
    return _scaled_and_shifted(layer, scales, shifts)


def _scaled_and_shifted(layer: nn.GroupNorm | nn.LayerNorm, scales: Tensor, shifts: Tensor) -> dict[Tensor, PerRecord]:
    """A norm may go without its shift, and without both it has no parameters."""
    samples: dict[Tensor, PerRecord] = {layer.weight: Explicit(scales)}
    return samples if layer.bias is None else samples | {layer.bias: Explicit(shifts)}


def _embedding(layer: nn.Embedding, inputs: Tensor, backprops: Tensor) -> dict[Tensor, PerRecord]:
    """Each row gets the output gradients of the places that asked for it; a padding row gets none."""
    values = backprops.new_zeros(len(inputs), *layer.weight.shape)
    places = inputs.reshape(len(inputs), -1, 1).expand(-1, -1, layer.embedding_dim)
    values.scatter_add_(1, places.long(), backprops.reshape(places.shape))
    if layer.padding_idx is not None:
        values[:, layer.padding_idx] = 0
    return {layer.weight: Explicit(values)}


_FORMULAS: dict[type[nn.Module], Callable[..., dict[Tensor, PerRecord]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}


def _has_formula(layer: nn.Module) -> bool:
    """By exact type: a subclass may compute something else."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1
    return type(layer) in _FORMULAS


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that have parameters of their own to train."""
    return [module for module in model.modules() if any(p.requires_grad for p in module.parameters(recurse=False))]
