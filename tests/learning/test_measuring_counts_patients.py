"""Pooled metrics are those of all records together, and one patient moves the counts by what the ledger says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from secure_fedhelp.data.records import Records
from secure_fedhelp.learning.measuring import count, leaving, one_record_each, pooled
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.study.sections import MetricsSection

EXACT = MetricsSection(release="pooled", bins=500)


class Fixed(nn.Module):
    """Answers with its input: logits are the records themselves."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def records(number: int, classes: int, seed: int, patients: int | None = None) -> Records:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    inputs = rng.normal(0, 1, (number, classes)) + 1.5 * np.eye(classes)[labels]
    names = tuple(f"p{i % (patients or number)}" for i in range(number))
    return Records(inputs.astype(np.float32), labels.astype(np.int64), names)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_sum_of_the_counts_says_what_all_records_together_would(classes: int) -> None:
    parts = [records(80 + 30 * site, classes, site) for site in range(3)]
    total = sum(leaving(count(Fixed(), part, EXACT, classes), EXACT, classes, SeededNoise(b"")) for part in parts)
    found = pooled(np.asarray(total), EXACT, classes)
    inputs, labels = np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts])
    probabilities = np.exp(inputs) / np.exp(inputs).sum(axis=1, keepdims=True)
    area = (
        roc_auc_score(labels, probabilities[:, 1])
        if classes == 2
        else roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert found.records == len(labels)
    assert found.accuracy == pytest.approx(np.mean(inputs.argmax(axis=1) == labels))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, inputs.argmax(axis=1)))
    assert found.auroc == pytest.approx(area, abs=0.003)  # pairs within one of 500 bins count half


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(2, 30), st.integers(0, 2**31))
def test_one_patient_more_moves_the_counts_by_the_declared_distance(classes: int, bins: int, seed: int) -> None:
    metrics = MetricsSection(release="pooled", bins=bins)
    whole = records(12, classes, seed)
    less = whole.take(range(11))
    moved = count(Fixed(), whole, metrics, classes) - count(Fixed(), less, metrics, classes)
    assert len(moved) == metrics.length(classes)
    assert (moved**2).sum() == metrics.squared_sensitivity(classes)


def test_a_patient_with_many_records_counts_once_by_any_of_them() -> None:
    data = records(60, 2, 0, patients=7)
    noise, seen = SeededNoise(b"picks"), set()
    for _ in range(60):
        chosen = one_record_each(data, noise)
        assert sorted(chosen.patients) == sorted(set(data.patients))
        seen.update(chosen.inputs[:, 0].tolist())
    assert len(seen) == 60


def test_noised_counts_carry_the_noise_that_is_paid_for() -> None:
    metrics = MetricsSection(release="noised", bins=1000, noise_multiplier=4.0, divisor=10)
    out = leaving(np.zeros(metrics.length(2)), metrics, 2, SeededNoise(b"n"))
    assert np.std(out) * 10 == pytest.approx(4.0 * 3**0.5, rel=0.05)


def test_nothing_counted_is_no_figure() -> None:
    empty = pooled(np.full(EXACT.length(3), -1e-6), EXACT, 3)
    assert (empty.accuracy, empty.balanced_accuracy, empty.auroc, empty.records) == (None, None, None, 0.0)
    one_class = np.zeros(EXACT.length(2))
    one_class[0] = 5 / EXACT.divisor
    found = pooled(one_class, EXACT, 2)
    assert (found.accuracy, found.balanced_accuracy, found.auroc) == (1.0, 1.0, None)
    assert found.as_dict()["confusion"] == [[5.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_patient_for_whom_the_model_has_no_answer_is_counted_like_any_other(broken: float) -> None:
    """An error in place of counts would tell that this patient is there."""
    whole = records(12, 3, 1)
    whole.inputs[4] = broken
    moved = count(Fixed(), whole, EXACT, 3) - count(Fixed(), whole.take([*range(4), *range(5, 12)]), EXACT, 3)
    assert moved[:9].sum() == 1
    assert (moved[9:].reshape(3, -1).sum(axis=1) == 1).all()
    assert (moved >= 0).all()
