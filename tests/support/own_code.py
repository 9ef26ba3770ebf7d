"""What a researcher might write: a network for tables by its import path, and FedAvg under another name."""

from __future__ import annotations

from torch import nn

from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.method import Said


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """``own_code:network``."""
    return nn.Sequential(nn.Linear(shape[0], 12), nn.Tanh(), nn.Linear(12, classes))


class Mine(Averaging):
    """``own_code:Mine``."""


class Faulty(Averaging):
    """``own_code:Faulty``."""

    def train(self, round_number: int) -> Said:
        raise ZeroDivisionError("a slip")
