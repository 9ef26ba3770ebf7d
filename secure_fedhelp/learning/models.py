"""Networks by name, as plain vectors: what the plan calls ``mlp-48``, ``unet-small`` or ``package.module:function``.

Every network is an extractor with two heads, the surrogate and the auxiliary of FedHelp (KDD 2025): the *private* head
is trained on private records, the *public* head on the public set, and the extractor on both. The networks themselves
are in learning/networks.py, those from outside are taken apart in learning/imported_model.py.

A vector holds what is trained. *Constants*, frozen parameters and buffers, are as the network was made and travel
nowhere. Private gradients are functions of them, so they must be public: the plan names their SHA-256, which every
hospital signs and compares before it trains.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.errors import InvalidContribution
from secure_fedhelp.learning.imported_model import take_apart
from secure_fedhelp.learning.networks import Head, built_in

# Hospitals, and in research mode many of them on one machine, are processes: with more threads each than cores they
# only wait for one another (measured ten times slower with two threads each on two cores).
torch.set_num_threads(1)

#: torch has one random state for all threads: two networks built at once would get each other's weights, and hospitals
#: that start from different weights add updates that mean nothing to one another.
_SEEDED = threading.Lock()


class TwoHeaded(nn.Module):
    """An extractor with a private and a public head. Inputs float32 [b, ...] to logits [b, classes].

    For a segmentation the heads are 1x1 convolutions, and the logits are [b, classes, height, width].
    """

    def __init__(self, extractor: nn.Module, private_head: Head, public_head: Head) -> None:
        super().__init__()
        self.extractor = extractor
        self.private_head = private_head
        self.public_head = public_head

    @property
    def pixelwise(self) -> bool:
        """Whether there is an answer for every pixel."""
        return isinstance(self.private_head, nn.Conv2d)

    @property
    def features(self) -> int:
        """What a head reads: features of a record, or of each pixel."""
        head = self.private_head
        return head.in_channels if isinstance(head, nn.Conv2d) else head.in_features

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

    Both heads start equal. The global random state is left as it was. A name with a colon is an import path, and
    building it runs that code: a site policy names it first (``models_allowed``).
    """
    shape = tuple(input_shape)
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if ":" in architecture:
            extractor, head = take_apart(architecture, shape, classes)
            return TwoHeaded(extractor, head, deepcopy(head))
        built = built_in(architecture, shape, classes)
        model = TwoHeaded(built.extractor, built.make_head(), built.make_head())
    model.adopt_public_head()
    return model


def parameter_count(architecture: str, input_shape: Sequence[int], classes: int) -> int:
    """Length of the network's vector: what is trained of extractor and both heads."""
    return sum(p.numel() for p in trained(build(architecture, input_shape, classes, seed=0)))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen, in the order of definition."""
    return [p for p in model.parameters() if p.requires_grad]


def constants_sha256(model: nn.Module) -> str | None:
    """SHA-256 over names, types, shapes and values of what no training changes; None if there is no such thing."""
    frozen = [(name, p.detach()) for name, p in model.named_parameters() if not p.requires_grad]
    constants = sorted([*frozen, *model.named_buffers()], key=lambda named: named[0])
    digest = hashlib.sha256()
    for name, values in constants:
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if constants else None


def flatten(model: nn.Module) -> NDArray[np.float64]:
    """All parameters that are not frozen as one float64 vector, in the order of definition."""
    return np.concatenate([p.detach().numpy().astype(np.float64).ravel() for p in trained(model)])


def load_flat(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Put a vector of :func:`flatten`'s layout into ``model`` (as float32); InvalidContribution on another length."""
    total = sum(p.numel() for p in trained(model))
    if vector.shape != (total,):
        raise InvalidContribution(f"a vector of shape {vector.shape} for a model of {total} parameters")
    start = 0
    with torch.no_grad():
        for p in trained(model):
            part = vector[start : start + p.numel()].astype(np.float32)
            p.copy_(torch.from_numpy(part).view_as(p))
            start += p.numel()
