"""The aligned loss against loops, and its two answers about records: what a patient changes, and the noise on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fedhelp.learning.alignment import AlignedLoss, gamma_weights, noised_counts, noised_sums, seesaw_weights
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.study.sections import ChannelSection

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)
CLASSES, FEATURES = 3, 4


class Silence:
    """No noise, and what was asked for."""

    name = "seeded-research"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, float]] = []

    def normal(self, shape: Any, standard_deviation: float) -> Array:
        self.asked.append((shape, standard_deviation))
        return np.zeros(shape)


def channel(sensitivity: float, noise_multiplier: float = 2.0) -> ChannelSection:
    return ChannelSection(
        name="answer",
        length=1,
        bound=1e6,
        mechanism="gaussian",
        combine="sum",
        sensitivity=sensitivity,
        noise_multiplier=noise_multiplier,
    )


# --- the loss ---------------------------------------------------------------------------------------------------------


def looped_seesaw(counts: Array) -> Array:
    found = np.ones((len(counts), len(counts)))
    for i in range(len(counts)):
        for j in range(len(counts)):
            if counts[i] > counts[j]:
                found[i, j] = (counts[j] / counts[i]) ** 0.8
    return found


def looped_gamma(own: Array, cohort: Array, tau: float) -> Array:
    found = []
    for q, shared in zip(own, cohort, strict=True):
        product = sum(float(a) * float(b) for a, b in zip(q, shared, strict=True))
        cosine = product / math.sqrt(sum(float(a) ** 2 for a in q)) / math.sqrt(sum(float(b) ** 2 for b in shared))
        found.append((1 + tau) / max(cosine + tau, 0.2))
    return np.array(found)


@given(st.lists(st.floats(1, 5000), min_size=2, max_size=6))
def test_seesaw_weights_are_the_definition(counts: list[float]) -> None:
    np.testing.assert_allclose(seesaw_weights(np.array(counts), 0.8), looped_seesaw(np.array(counts)), rtol=1e-12)
    np.testing.assert_array_equal(seesaw_weights(np.array(counts), 0.0), np.ones((len(counts),) * 2))


@given(seeds, st.floats(1, 20))
def test_gamma_is_the_definition_and_the_division_may_come_after(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    own, cohort = rng.normal(size=(CLASSES, FEATURES)), rng.normal(size=(CLASSES, FEATURES))
    found = gamma_weights(own, cohort, tau)
    np.testing.assert_allclose(found, looped_gamma(own, cohort, tau), rtol=1e-9)
    np.testing.assert_allclose(gamma_weights(own * np.array([[3.0], [40.0], [0.1]]), cohort, tau), found, rtol=1e-9)
    assert ((found >= 1 - 1e-9) & (found <= (tau + 1) / max(tau - 1, 0.2) + 1e-9)).all()
    nothing = own.copy()
    nothing[1] = 0
    assert gamma_weights(nothing, cohort, tau)[1] == 1
    np.testing.assert_allclose(gamma_weights(own, own, tau), 1)


def test_prototypes_that_point_in_opposite_directions_weigh_ten_times_and_not_without_end() -> None:
    own = np.array([[1.0, 2.0], [3.0, 1.0], [1.0, 0.0]])
    cohort = np.array([[-2.0, -4.0], [6.0, 2.0], [-1.0, 0.5]])  # the last one nearly
    np.testing.assert_allclose(gamma_weights(own, cohort, 1.0), [10.0, 1.0, 10.0])
    np.testing.assert_allclose(gamma_weights(own, cohort, 3.0)[0], 2.0)


@given(seeds)
@settings(deadline=None)
def test_the_loss_of_each_record_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(6, CLASSES)) * 3, rng.integers(0, CLASSES, size=6)
    s, gamma = looped_seesaw(rng.uniform(1, 900, CLASSES)), rng.uniform(1, 2, CLASSES)
    wanted = []
    for z, y in zip(logits, labels, strict=True):
        others = sum(s[y, j] * math.exp(z[j]) for j in range(CLASSES) if j != y)
        wanted.append(-gamma[y] * math.log(math.exp(z[y]) / (math.exp(z[y]) + others)))
    found = AlignedLoss(s, gamma)(torch.tensor(logits).float(), torch.tensor(labels))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    alone = [
        float(AlignedLoss(s, gamma)(torch.tensor(logits[i : i + 1]), torch.tensor(labels[i : i + 1]))[0])
        for i in range(6)
    ]
    np.testing.assert_allclose(alone, wanted, rtol=1e-4, atol=1e-5)


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_the_loss_of_a_mask_is_the_mean_over_its_pixels_and_dice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, masks = rng.normal(size=(3, CLASSES, 4, 5)) * 2, rng.integers(0, CLASSES, size=(3, 4, 5))
    s, gamma = looped_seesaw(rng.uniform(1, 900, CLASSES)), rng.uniform(1, 2, CLASSES)
    wanted = []
    for z, mask in zip(logits, masks, strict=True):
        pixels, dice = [], []
        p = np.exp(z) / np.exp(z).sum(axis=0)
        for i in range(4):
            for j in range(5):
                y = mask[i, j]
                others = sum(s[y, k] * math.exp(z[k, i, j]) for k in range(CLASSES) if k != y)
                pixels.append(-gamma[y] * math.log(math.exp(z[y, i, j]) / (math.exp(z[y, i, j]) + others)))
        for c in range(1, CLASSES):
            g = mask == c
            dice.append(1 - (2 * float(p[c][g].sum()) + 1) / (float(p[c].sum()) + int(g.sum()) + 1))
        wanted.append(sum(pixels) / len(pixels) + sum(dice) / len(dice))
    found = AlignedLoss(s, gamma)(torch.tensor(logits).float(), torch.tensor(masks))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_record_of_a_frequent_class_pushes_a_rare_one_less() -> None:
    loss = AlignedLoss(seesaw_weights(np.array([1000.0, 10.0]), 0.8), np.ones(2))
    pushed = []
    for label in (0, 1):
        logits = torch.zeros(1, 2, requires_grad=True)
        loss(logits, torch.tensor([label])).sum().backward()
        assert logits.grad is not None
        pushed.append(float(logits.grad[0, 1 - label]))
    assert 0 < pushed[0] < 0.05 < pushed[1] == pytest.approx(0.5)


# --- its answers about records ----------------------------------------------------------------------------------------


@given(seeds, st.floats(0.1, 5), st.floats(0.01, 100))
@settings(deadline=None)
def test_one_patient_changes_an_answer_by_its_sensitivity_at_most(seed: int, limit: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    features, labels = size * rng.normal(size=(7, FEATURES)), rng.integers(0, CLASSES, size=7)
    quiet = Silence()

    def both(n: int) -> tuple[Array, Array]:
        counts = noised_counts(labels[:n], CLASSES, channel(1.0), quiet)  # type: ignore[arg-type]
        return counts, noised_sums(features[:n], labels[:n], CLASSES, channel(limit), quiet)  # type: ignore[arg-type]

    (with_all, sums), (without, sums_without) = both(7), both(6)
    assert np.linalg.norm(with_all - without) == 1
    assert np.linalg.norm(sums - sums_without) <= limit * (1 + 1e-9)
    assert with_all.tolist() == [int((labels == c).sum()) for c in range(CLASSES)]
    wanted = np.zeros((CLASSES, FEATURES))
    for f, y in zip(features, labels, strict=True):
        length = math.sqrt(sum(x * x for x in f))
        wanted[y] += f if length <= limit else f * limit / length
    np.testing.assert_allclose(sums, wanted, rtol=1e-9, atol=1e-12)


def mean_feature(features: Array, mask: Array, c: int) -> Array | None:
    """Of one image's pixels of a class, with loops."""
    chosen = [features[:, i, j] for i in range(mask.shape[0]) for j in range(mask.shape[1]) if mask[i, j] == c]
    return sum(chosen) / len(chosen) if chosen else None


@given(seeds, st.floats(0.1, 5), st.floats(0.01, 100))
@settings(deadline=None, max_examples=25)
def test_one_patient_with_a_mask_changes_an_answer_by_its_sensitivity_at_most(
    seed: int, limit: float, size: float
) -> None:
    """Counts are shares of pixels, and sums are of each patient's mean feature of each class it has."""
    rng = np.random.default_rng(seed)
    features, masks = size * rng.normal(size=(5, FEATURES, 3, 4)), rng.integers(0, CLASSES, size=(5, 3, 4))
    masks[int(rng.integers(5))] = int(rng.integers(CLASSES))  # an image of one class: the most that one can change
    wanted_counts, wanted = np.zeros(CLASSES), np.zeros((CLASSES, FEATURES))
    for f, mask in zip(features, masks, strict=True):
        for c in range(CLASSES):
            wanted_counts[c] += sum(int(x) == c for x in mask.ravel()) / 12
            if (mean := mean_feature(f, mask, c)) is not None:
                length = math.sqrt(sum(float(x) ** 2 for x in mean))
                wanted[c] += mean * min(1.0, limit / math.sqrt(CLASSES) / length)
    quiet = Silence()

    def both(chosen: list[int]) -> tuple[Array, Array]:
        counts = noised_counts(masks[chosen], CLASSES, channel(1.0), quiet)  # type: ignore[arg-type]
        return counts, noised_sums(features[chosen], masks[chosen], CLASSES, channel(limit), quiet)  # type: ignore[arg-type]

    counts, sums = both([0, 1, 2, 3, 4])
    np.testing.assert_allclose(counts, wanted_counts, atol=1e-9)
    np.testing.assert_allclose(sums, wanted, rtol=1e-9, atol=1e-12)
    for left in range(5):
        fewer, sums_without = both([n for n in range(5) if n != left])
        assert np.linalg.norm(counts - fewer) <= 1 + 1e-9
        assert np.linalg.norm(sums - sums_without) <= limit * (1 + 1e-9)


def test_the_noise_is_the_channels_and_covers_classes_that_nobody_has() -> None:
    quiet = Silence()
    labels, features = np.zeros(5, dtype=np.int64), np.ones((5, FEATURES))
    counts = noised_counts(labels, CLASSES, channel(1.0, 3.0), quiet)  # type: ignore[arg-type]
    sums = noised_sums(features, labels, CLASSES, channel(1.5, 4.0), quiet)  # type: ignore[arg-type]
    assert quiet.asked == [((CLASSES,), 3.0), ((CLASSES, FEATURES), 6.0)]
    assert not counts[1:].any()
    assert not sums[1:].any(), "a hospital without a class says zeros, under noise"
    noisy = noised_sums(features, labels, CLASSES, channel(1.5, 4.0), SeededNoise(b"n"))
    assert noisy[1:].all()
    one = noised_counts(labels, CLASSES, channel(1.0), SeededNoise(b"a"))
    assert not np.array_equal(one, noised_counts(labels, CLASSES, channel(1.0), SeededNoise(b"b")))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_a_patient_whose_features_are_none_adds_nothing(broken: float, masked: bool) -> None:
    """0.5 * NaN is no cut: the sum would say that this patient is there, and nothing else."""
    shape = (3, FEATURES, 2, 2) if masked else (3, FEATURES)
    features = np.random.default_rng(1).normal(size=shape)
    features[1] = broken
    labels = np.asarray([0, 1, 2])
    if masked:
        labels = np.repeat(labels, 4).reshape(3, 2, 2)
    with np.errstate(invalid="ignore"):
        found = noised_sums(features, labels, CLASSES, channel(1.0), Silence())  # type: ignore[arg-type]
    others = [0, 2]
    expected = noised_sums(features[others], labels[others], CLASSES, channel(1.0), Silence())  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)
