"""Every way to each record's clipped gradient that is measured: ours, Opacus' four, and torch.func's.

All take the same private step (privacy/training.py) with the same noise; only what lies between the losses and the
clipped sum differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from secure_fedhelp.privacy.gradients import BookKeeping, Gradients, OpacusHooks
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.training import NoisyOptimizer, RecordLoss

LEARNING_RATE: Final = 0.01


@dataclass(frozen=True)
class Setting:
    """What is trained: a model, its loss, and the figures of a step."""

    model: nn.Module
    loss: RecordLoss
    noise: NoiseSource
    clipping_norm: float
    expected_batch: float

    def optimizer(self, kind: type[NoisyOptimizer] = NoisyOptimizer) -> NoisyOptimizer:
        return kind(
            torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE),
            noise=self.noise,
            noise_multiplier=1.0,
            max_grad_norm=self.clipping_norm,
            expected_batch_size=self.expected_batch,
        )


@dataclass(frozen=True)
class Private:
    """A model ready for private steps: what a step takes beside the records."""

    gradients: Gradients
    optimizer: NoisyOptimizer
    loss: RecordLoss


def _book_keeping(s: Setting) -> Private:
    return Private(BookKeeping(s.model), s.optimizer(), s.loss)


def _hooks(s: Setting) -> Private:
    return Private(OpacusHooks(s.model), s.optimizer(), s.loss)


def _functorch(s: Setting) -> Private:
    return Private(OpacusHooks(s.model, force_functorch=True), s.optimizer(), s.loss)


def _expanded_weights(s: Setting) -> Private:
    return Private(_ExpandedWeights(s.model), s.optimizer(), s.loss)


def _ghost(s: Setting) -> Private:
    optimizer = s.optimizer(_SumsClippedBefore)
    return Private(_Ghost(s.model, optimizer, s.clipping_norm), optimizer, s.loss)


def _vmap(s: Setting) -> Private:
    gradients = _Vmap(s.model, s.loss)
    return Private(gradients, s.optimizer(), gradients.take_labels)


MODES: Final[dict[str, Callable[[Setting], Private]]] = {
    "book-keeping": _book_keeping,
    "opacus-hooks": _hooks,
    "opacus-functorch": _functorch,
    "opacus-ew": _expanded_weights,
    "opacus-ghost": _ghost,
    "vmap": _vmap,
}


class _ExpandedWeights:
    """PyTorch's own per-sample gradients (torch.nn.utils._per_sample_grad), through Opacus."""

    def __init__(self, model: nn.Module) -> None:
        self._wrapped = GradSampleModuleExpandedWeights(model, loss_reduction="sum")

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._wrapped(inputs)
        return outputs

    def backward(self, losses: Tensor) -> None:
        losses.sum().backward()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._wrapped.to_standard_module()


class _Ghost:
    """Opacus' ghost clipping: one backward pass for the norms, a second for the sum of clipped gradients."""

    def __init__(self, model: nn.Module, optimizer: NoisyOptimizer, clipping_norm: float) -> None:
        self._optimizer = optimizer
        self._wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=clipping_norm)

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._wrapped(inputs)
        return outputs

    def backward(self, losses: Tensor) -> None:
        DPTensorFastGradientClipping(self._wrapped, self._optimizer, losses, loss_reduction="sum").backward()

    def close(self) -> None:
        self._wrapped.to_standard_module()


class _SumsClippedBefore(NoisyOptimizer):
    """Ghost clipping's second backward pass has left the clipped sum where plain training has its gradient."""

    def clip_and_accumulate(self) -> None:
        for p in self.params:
            p.summed_grad = p.grad.clone() if p.summed_grad is None else p.summed_grad + p.grad


class _Vmap:
    """torch.func: the gradient of one record's loss as a function, mapped over the batch. Its forward pass is inside,
    so labels are taken where a loss would be computed.
    """

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        self._parameters: dict[str, Any] = dict(model.named_parameters())

        def one(parameters: dict[str, Tensor], record: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(model, parameters, (record.unsqueeze(0),))
            return loss(outputs, label.unsqueeze(0)).sum()

        self._each = vmap(grad(one), in_dims=(None, 0, 0))
        self._labels = torch.empty(0)
        self._inputs = torch.empty(0)

    def __call__(self, inputs: Tensor) -> Tensor:
        self._inputs = inputs
        return inputs

    def take_labels(self, _: Tensor, labels: Tensor) -> Tensor:
        self._labels = labels
        return torch.empty(len(labels))

    def backward(self, _: Tensor) -> None:
        detached = {name: p.detach() for name, p in self._parameters.items()}
        for name, sample in self._each(detached, self._inputs, self._labels).items():
            self._parameters[name].grad_sample = sample

    def close(self) -> None:
        for p in self._parameters.values():
            p.grad_sample = None
