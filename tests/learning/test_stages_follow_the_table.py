"""Who teaches whom: the stage machine and each stage's losses, against the table of the paper."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from secure_fedhelp.learning.methods.prr import twin_losses
from secure_fedhelp.learning.stages import Stage, epochs, next_stage, stage_score
from secure_fedhelp.privacy.training import RecordLoss

A1, A2 = 0.7, 0.9
#: g in the paper: 0 as a round begins, then 1, 2, 3.
NUMBERS = {0: None, 1: Stage.RECOVER, 2: Stage.EXCHANGE, 3: Stage.SUBLIMATE}
#: (D teaches P, P teaches D)
TABLE = {Stage.RECOVER: (False, True), Stage.EXCHANGE: (True, True), Stage.SUBLIMATE: (True, False)}


def published(g: int, personal: float, deputy: float) -> int:
    """s_D < a1 s_P or g = 0: 1. Else g = 1, or s_D < a2 s_P: 2. Else 3."""
    if deputy < A1 * personal or g == 0:
        return 1
    if g == 1 or deputy < A2 * personal:
        return 2
    return 3


def test_every_stage_follows_as_published() -> None:
    scores = [0.0, 0.2, 0.35, 0.5, 0.56, 0.63, 0.7, 0.8, 1.0]
    seen = set()
    for g, personal, deputy in itertools.product(NUMBERS, scores, scores):
        wanted = published(g, personal, deputy)
        assert next_stage(NUMBERS[g], personal, deputy, A1, A2) is NUMBERS[wanted]
        seen.add((g, wanted))
    assert seen == {(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)}


def test_without_scores_a_round_goes_through_the_stages_in_order() -> None:
    stage, seen = None, []
    for _ in range(4):
        stage = next_stage(stage, 0.0, 0.0, A1, A2)
        seen.append(stage)
    assert seen == [Stage.RECOVER, Stage.EXCHANGE, Stage.SUBLIMATE, Stage.SUBLIMATE]


def divergence(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> list[float]:
    found = []
    for t, s in zip(teacher, student, strict=True):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        found.append(float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))))
    return found


@pytest.mark.parametrize("stage", Stage)
def test_each_stage_has_the_losses_of_its_row_and_no_teacher_is_trained(stage: Stage) -> None:
    rng = np.random.default_rng(0)
    deputy, personal, labels = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])

    def task(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.gather(1, labels[:, None])[:, 0] ** 2

    own = [float(deputy[i, c] ** 2 + personal[i, c] ** 2) for i, c in enumerate(labels)]
    deputy_teaches, personal_teaches = TABLE[stage]
    wanted = np.array(own)
    wanted += np.array(divergence(deputy, personal)) * deputy_teaches
    wanted += np.array(divergence(personal, deputy)) * personal_teaches
    both = torch.tensor(np.concatenate([deputy, personal], axis=1), requires_grad=True)
    loss: RecordLoss = twin_losses(stage, task, 1.0)
    found = loss(both, torch.tensor(labels))
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-9)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert both.grad is not None
    others = np.ones((4, 3), dtype=bool)
    others[np.arange(4), labels] = False  # where the task itself has no gradient
    learns = {"deputy": both.grad[:, :3].numpy()[others], "personal": both.grad[:, 3:].numpy()[others]}
    assert bool(learns["personal"].any()) is deputy_teaches
    assert bool(learns["deputy"].any()) is personal_teaches


@given(st.integers(0, 200), st.integers(1, 12))
def test_epochs_hold_every_step_and_are_equal_but_for_one(steps: int, count: int) -> None:
    found = list(epochs(steps, count))
    assert sum(found) == steps
    assert len(found) == min(steps, count)
    assert not found or max(found) - min(found) <= 1


@given(st.integers(0, 2**32 - 1))
def test_the_score_is_scikit_learns_macro_f1_over_the_classes_present(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(12, 4)), rng.integers(0, 3, size=12)
    wanted = f1_score(labels, logits.argmax(axis=1), labels=np.unique(labels), average="macro", zero_division=0)
    assert stage_score(logits, labels) == pytest.approx(wanted)


@given(st.integers(0, 2**32 - 1))
def test_the_score_of_masks_is_the_mean_dice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(4, 3, 5, 6)), rng.integers(0, 3, size=(4, 5, 6))
    labels[0] = 0
    logits[0, 2] = -9
    found = []
    for answer, mask in zip(logits, labels, strict=True):
        for c in (1, 2):
            ours = {(i, j) for i in range(5) for j in range(6) if int(np.argmax(answer[:, i, j])) == c}
            true = {(i, j) for i in range(5) for j in range(6) if mask[i, j] == c}
            found.append(2 * len(ours & true) / (len(ours) + len(true)) if ours or true else 1.0)
    assert stage_score(logits, labels) == pytest.approx(sum(found) / len(found))
