"""What one model learns from another's answers: soft labels downwards, an order upwards.

Logits are float [b, classes], or [b, classes, height, width] with an answer for every pixel: then a record's loss is
the mean over its pixels. Every loss is the mean over the batch unless ``per_record`` is asked for. Teachers are
detached: they are never trained here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_loss(teacher: Tensor, student: Tensor, temperature: float = 1.0, per_record: bool = False) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)): the whole distribution, teacher first.

    Not multiplied by T^2, as in FedHelp (KDD 2025), where T = 1.
    """
    target = functional.log_softmax(teacher.detach() / temperature, dim=1)
    answer = functional.log_softmax(student / temperature, dim=1)
    loss = _each_record((target.exp() * (target - answer)).sum(dim=1))
    return loss if per_record else loss.mean()


def ranking_loss(
    weak: Tensor, strong: Tensor, top: int = 1, per_record: bool = False, confidence: float = 0.0
) -> Tensor:
    """FedHelp's R: mean over u in U, v in V of max(0, l_v - l_u), with l the strong model's logits.

    U is the weak model's ``top`` classes of a record and V the others. The loss is zero once the strong model ranks
    each class of U above each of V; how sure the weak model is does not matter, so only an order flows upwards.

    For a segmentation it is taken for each pixel *(ours)*, and is zero where the weak model gives its first class less
    probability than ``confidence``. It is divided by all pixels, so a weak model that hesitates says less.
    """
    chosen = torch.zeros_like(weak, dtype=torch.bool)
    chosen.scatter_(1, weak.detach().topk(top, dim=1).indices, True)
    pairs = chosen.unsqueeze(2) & ~chosen.unsqueeze(1)  # [b, u, v, ...]
    excess = (strong.unsqueeze(1) - strong.unsqueeze(2)).clamp(min=0)  # [b, u, v, ...]: l_v - l_u
    classes = weak.shape[1]
    loss = (excess * pairs).sum(dim=(1, 2)) / (top * (classes - top))
    if confidence > 0:
        loss = loss * (weak.detach().softmax(dim=1).amax(dim=1) >= confidence)
    loss = _each_record(loss)
    return loss if per_record else loss.mean()


def _each_record(values: Tensor) -> Tensor:
    """[b] of [b], or the means over the pixels of [b, height, width]."""
    return values if values.ndim == 1 else values.flatten(1).mean(dim=1)
