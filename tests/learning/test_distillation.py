"""Distillation: the right direction, the right sign, and references written in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fedhelp.learning.distillation import ranking_loss, soft_loss

logits = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(4, 5)) * 3)


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@given(logits, logits, st.floats(0.5, 5))
def test_soft_loss_is_the_divergence_of_the_student_from_the_teacher(
    teacher: NDArray[np.float64], student: NDArray[np.float64], temperature: float
) -> None:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = (p * np.log(p / q)).sum(axis=1)
    one_each = soft_loss(torch.tensor(teacher), torch.tensor(student), temperature, per_record=True)
    np.testing.assert_allclose(one_each.numpy(), expected, atol=1e-9)
    found = soft_loss(torch.tensor(teacher), torch.tensor(student), temperature)
    assert float(found) == pytest.approx(expected.mean(), abs=1e-9)
    assert float(found) >= -1e-12


@given(logits, logits, st.integers(1, 4))
def test_ranking_loss_matches_its_definition(weak: NDArray[np.float64], strong: NDArray[np.float64], top: int) -> None:
    expected = []
    for w, s in zip(weak, strong, strict=True):
        chosen = set(np.argsort(-w)[:top].tolist())
        pairs = [max(0.0, s[v] - s[u]) for u in chosen for v in range(5) if v not in chosen]
        expected.append(np.mean(pairs))
    one_each = ranking_loss(torch.tensor(weak), torch.tensor(strong), top, per_record=True)
    np.testing.assert_allclose(one_each.numpy(), expected, atol=1e-12)
    assert float(ranking_loss(torch.tensor(weak), torch.tensor(strong), top)) == pytest.approx(np.mean(expected))


def test_ranking_is_zero_in_agreement_and_grows_with_the_wrong_order() -> None:
    weak = torch.tensor([[0.1, 0.0]])
    assert float(ranking_loss(weak, torch.tensor([[5.0, -5.0]]))) == 0
    assert float(ranking_loss(weak, torch.tensor([[-5.0, 5.0]]))) == 10
    assert float(ranking_loss(weak, torch.tensor([[-1.0, 1.0]]))) == 2


def test_only_an_order_flows_upwards() -> None:
    strong = torch.tensor([[1.0, 2.0, 0.0]])
    unsure, sure = torch.tensor([[0.1, 0.0, -0.1]]), torch.tensor([[90.0, 0.0, -70.0]])
    assert float(ranking_loss(unsure, strong)) == float(ranking_loss(sure, strong)) > 0


def test_gradients_reach_the_student_and_never_the_teacher() -> None:
    teacher = torch.tensor([[2.0, -1.0]], requires_grad=True)
    student = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    (soft_loss(teacher, student) + ranking_loss(teacher, student)).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[0, 0] < 0 < student.grad[0, 1], "descent moves the student towards the teacher"
