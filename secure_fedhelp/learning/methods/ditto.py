"""Ditto (Li et al., ICML 2021): FedAvg for the shared model, and a personal one that is drawn towards it."""

from __future__ import annotations

import torch
from torch import Tensor

from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.models import TwoHeaded
from secure_fedhelp.learning.steps import ExtraLoss
from secure_fedhelp.study import methods


class Ditto(Averaging):
    """The personal model v minimises the hospital's own loss plus lambda/2 ||v - w||^2, with w the shared model.

    It never leaves, so it needs no noise. v has the shape of w, so large hospitals have no network of their own here.
    """

    has_large = False

    def lesson(self, model: TwoHeaded) -> ExtraLoss:
        weight = self.plan.options(methods.Ditto).proximal_weight
        shared = [p.detach().clone() for p in self.shared_model().parameters()]

        def distance(inputs: Tensor, logits: Tensor) -> Tensor:
            pairs = zip(model.parameters(), shared, strict=True)
            return weight / 2 * torch.stack([(p - start).square().sum() for p, start in pairs]).sum()

        return distance
