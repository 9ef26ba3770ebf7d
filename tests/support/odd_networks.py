"""Networks that somebody might name in a plan: some that can be trained, and some that cannot.

Importing this module leaves a mark, so that a test sees whether it was imported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMPORTED = True
Shape = tuple[int, ...]


def frozen(shape: Shape, classes: int) -> nn.Module:
    """A frozen encoder with a batch norm in evaluation mode, and a layer to train on top of it."""
    return FrozenEncoder(shape[0], classes)


class FrozenEncoder(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 8), nn.BatchNorm1d(8), nn.ReLU()).requires_grad_(False)
        self.adapter, self.last = nn.Linear(8, 6), nn.Linear(6, classes)

    def train(self, mode: bool = True) -> FrozenEncoder:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(torch.tanh(self.adapter(self.encoder(inputs)))))


def frozen_head(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 4), nn.Tanh(), nn.Linear(4, classes).requires_grad_(False))


def coded(shape: Shape, classes: int) -> nn.Module:
    """Codes in whole numbers, each with a row; what is beyond the rows is the last."""
    return Coded(shape[0], classes)


class Coded(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.rows, self.last = nn.Embedding(10, 3, padding_idx=0), nn.Linear(3 * features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.rows(inputs.long().clamp(0, 9)).flatten(1)))


def mixing(shape: Shape, classes: int) -> nn.Module:
    """Its batch norm keeps no figures, so nothing but a trial shows what it does."""
    layers = nn.Linear(shape[0], 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, classes)
    return nn.Sequential(*layers)


def attending(shape: Shape, classes: int) -> nn.Module:
    return Attending(classes)


class Attending(nn.Module):
    """Attention over a record's values, each a token."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.tokens, self.attention = nn.Linear(1, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.tokens(inputs.flatten(1).unsqueeze(2))
        return torch.as_tensor(self.last(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1)))


def flat_mixing(shape: Shape, classes: int) -> nn.Module:
    """For images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))
