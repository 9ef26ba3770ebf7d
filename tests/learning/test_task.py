"""The public class prior: rare classes are not outvoted, and without one nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.task import Task

Study = Any


def test_without_a_prior_the_loss_is_plain_cross_entropy(study: Study) -> None:
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 1])
    task = Task.of(study.plan)
    assert torch.equal(task.natural(logits), logits)
    assert torch.equal(task.losses(logits, labels), functional.cross_entropy(logits, labels, reduction="none"))


def test_the_loss_matches_its_definition_whatever_the_priors_scale(study_with: Callable[..., Study]) -> None:
    logits, labels = np.asarray([[0.5, -1.0], [2.0, 0.3]]), np.asarray([1, 0])
    weighted = np.exp(logits) * np.asarray([0.8, 0.2])
    expected = -np.log(weighted[np.arange(2), labels] / weighted.sum(axis=1))
    for scale in (1.0, 10.0):
        task = Task.of(study_with(class_prior=(0.8 * scale, 0.2 * scale)).plan)
        found = task.losses(torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_a_model_that_knows_only_the_prior_votes_for_no_class(study_with: Callable[..., Study]) -> None:
    """Fitting a constant to nine records of ten of class 0 leaves the bare logits undecided."""
    task = Task.of(study_with(class_prior=(0.9, 0.1)).plan)
    logits = torch.zeros(2, requires_grad=True)
    labels = torch.tensor([0] * 9 + [1])
    task.losses(logits.expand(10, 2), labels).mean().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), 0, atol=1e-6)


def test_a_prior_of_another_number_of_classes_is_refused(study_with: Callable[..., Study]) -> None:
    with pytest.raises(InvalidPlan, match="3 values for 2 classes"):
        Task.of(study_with(class_prior=(0.2, 0.3, 0.5)).plan)
