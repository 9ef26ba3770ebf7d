"""Networks by name, as plain vectors: what the plan calls ``mlp-48`` or ``cnn-8-16-24``.

Every network is an extractor with two heads, the surrogate and the auxiliary of FedHelp (KDD 2025): the *private* head
is trained on private records, the *public* head on the public set, and the extractor on both. No BatchNorm, because it
mixes the records of a batch and so voids per-patient clipping; GroupNorm instead. No in-place operations, because
Opacus' hooks forbid them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.errors import InvalidContribution, UnsupportedModel

# Hospitals, and in research mode many of them on one machine, are processes: with more threads each than cores they
# only wait for one another (measured ten times slower with two threads each on two cores).
torch.set_num_threads(1)

#: torch has one random state for all threads: two networks built at once would get each other's weights, and hospitals
#: that start from different weights add updates that mean nothing to one another.
_SEEDED = threading.Lock()

_GROUPS = 4
_KNOWN = "mlp-WIDTH[-WIDTH...], cnn-CHANNELS[-CHANNELS...] (channels divisible by 4), monai-resnet10"


class TwoHeaded(nn.Module):
    """An extractor with a private and a public head. Inputs float32 [b, ...] to logits [b, classes]."""

    def __init__(self, extractor: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.extractor = extractor
        self.private_head = nn.Linear(features, classes)
        self.public_head = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """The private head's logits: what the model predicts."""
        logits: Tensor = self.private_head(self.extractor(inputs))
        return logits

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the private and of the public head."""
        features = self.extractor(inputs)
        return self.private_head(features), self.public_head(features)

    def adopt_public_head(self) -> None:
        """Start the private head where the public one is *(ours)*: noise is paid for what public data cannot teach."""
        self.private_head.load_state_dict(self.public_head.state_dict())


class Surrogate(nn.Module):
    """The part of a :class:`TwoHeaded` that private records may train: extractor and private head, shared with it."""

    def __init__(self, model: TwoHeaded) -> None:
        super().__init__()
        self.extractor = model.extractor
        self.private_head = model.private_head

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.private_head(self.extractor(inputs))
        return logits


def build(architecture: str, input_shape: Sequence[int], classes: int, seed: int) -> TwoHeaded:
    """The named network with weights drawn from ``seed`` alone; UnsupportedModel if the name or the shape does not fit.

    Both heads start equal. The global random state is left as it was.
    """
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor, features = _extractor(architecture, tuple(input_shape))
        model = TwoHeaded(extractor, features, classes)
    model.adopt_public_head()
    return model


def parameter_count(architecture: str, input_shape: Sequence[int], classes: int) -> int:
    """Length of the network's vector: extractor and both heads."""
    return sum(p.numel() for p in build(architecture, input_shape, classes, seed=0).parameters())


def flatten(model: nn.Module) -> NDArray[np.float64]:
    """All parameters as one float64 vector, in the order of definition."""
    return np.concatenate([p.detach().numpy().astype(np.float64).ravel() for p in model.parameters()])


def load_flat(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Put a vector of :func:`flatten`'s layout into ``model`` (as float32); InvalidContribution on another length."""
    total = sum(p.numel() for p in model.parameters())
    if vector.shape != (total,):
        raise InvalidContribution(f"a vector of shape {vector.shape} for a model of {total} parameters")
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            part = vector[start : start + p.numel()].astype(np.float32)
            p.copy_(torch.from_numpy(part).view_as(p))
            start += p.numel()


def _extractor(architecture: str, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The extractor and the number of its features."""
    kind, _, rest = architecture.partition("-")
    if architecture == "monai-resnet10" and len(shape) == 3:
        return _monai_resnet(shape)
    widths = [int(width) for width in rest.split("-")] if rest.replace("-", "").isdigit() and "--" not in rest else []
    if kind == "mlp" and len(shape) == 1 and widths and min(widths) > 0:
        return _mlp(shape[0], widths)
    if kind == "cnn" and len(shape) == 3 and widths and min(widths) > 0 and not any(w % _GROUPS for w in widths):
        return _cnn(shape, widths)
    raise UnsupportedModel(f"no network {architecture!r} for inputs of shape {shape}", f"Choose one of: {_KNOWN}.")


def _mlp(features: int, widths: Sequence[int]) -> tuple[nn.Module, int]:
    # tanh bounds what one record can do to the next layer, which suits clipped gradients (Papernot et al., AAAI 2021)
    layers: list[nn.Module] = []
    for before, after in zip([features, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers), widths[-1]


def _cnn(shape: tuple[int, ...], channels: Sequence[int]) -> tuple[nn.Module, int]:
    """Convolutions of stride 2 (5x5 first, then 3x3), each followed by GroupNorm and ReLU."""
    layers: list[nn.Module] = []
    height, width = shape[1:]
    for number, (before, after) in enumerate(zip([shape[0], *channels], channels, strict=False)):
        size = 5 if number == 0 else 3
        layers += [nn.Conv2d(before, after, size, stride=2, padding=size // 2), nn.GroupNorm(_GROUPS, after), nn.ReLU()]
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return nn.Sequential(*layers, nn.Flatten()), channels[-1] * height * width


def _monai_resnet(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """MONAI's ResNet-10 with GroupNorm, a quarter as wide. Its residual sum is in place: a large model only, no DP."""
    from monai.networks.nets.resnet import ResNet  # 4 s of imports, for whoever asks for it

    network = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[16, 32, 64, 128],
        spatial_dims=2,
        n_input_channels=shape[0],
        conv1_t_size=3,
        conv1_t_stride=1,
        feed_forward=False,
        norm=("group", {"num_groups": _GROUPS}),
        act=("relu", {"inplace": False}),
    )
    return network, 128
