"""Losses and figures of segmentations, each against loops over records and pixels in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.errors import InvalidData, OneClassOnly
from secure_fedhelp.learning.distillation import ranking_loss, soft_loss
from secure_fedhelp.learning.evaluation import calibration_error, dice_of_each, score
from secure_fedhelp.learning.task import Task, dice_loss

Array = NDArray[np.float64]
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
B, H, W = 3, 4, 5


def case(seed: int, classes: int) -> tuple[Array, Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    shape = (B, classes, H, W)
    return rng.normal(size=shape) * 2, rng.normal(size=shape) * 2, rng.integers(0, classes, (B, H, W))


def softmax(logits: Array) -> list[float]:
    powers = [math.exp(x) for x in logits]
    return [p / sum(powers) for p in powers]


@few
@given(seeds, st.sampled_from([2, 3]))
def test_the_loss_of_a_record_is_cross_entropy_of_its_pixels_and_its_own_dice(seed: int, classes: int) -> None:
    logits, _, labels = case(seed, classes)
    prior = np.arange(1, classes + 1) / 3
    expected = []
    for b in range(B):
        entropy, overlaps, sizes = 0.0, [0.0] * classes, [0.0] * classes
        for i in range(H):
            for j in range(W):
                true = labels[b, i, j]
                entropy -= math.log(softmax(logits[b, :, i, j] + np.log(prior))[true]) / (H * W)
                p = softmax(logits[b, :, i, j])
                for c in range(1, classes):
                    overlaps[c] += p[c] * (true == c)
                    sizes[c] += p[c] + (true == c)
        dice = [1 - (2 * overlaps[c] + 1) / (sizes[c] + 1) for c in range(1, classes)]
        expected.append(entropy + sum(dice) / len(dice))
    task = Task(torch.log(torch.tensor(prior)), pixelwise=True)
    found = task.losses(torch.tensor(logits), torch.tensor(labels))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_the_dice_loss_is_monais() -> None:
    from monai.losses.dice import DiceLoss

    logits, _, labels = case(5, 3)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 3).movedim(-1, 1)
    reference = DiceLoss(include_background=False, softmax=True, smooth_nr=1, smooth_dr=1)
    assert float(dice_loss(torch.tensor(logits), torch.tensor(labels)).mean()) == pytest.approx(
        float(reference(torch.tensor(logits), one_hot))
    )


def test_one_records_loss_does_not_depend_on_the_others() -> None:
    logits, _, labels = case(3, 2)
    task = Task(torch.zeros(2), pixelwise=True)
    together = task.losses(torch.tensor(logits), torch.tensor(labels))
    for b in range(B):
        alone = task.losses(torch.tensor(logits[b : b + 1]), torch.tensor(labels[b : b + 1]))
        assert float(alone) == pytest.approx(float(together[b]), abs=1e-12)


@few
@given(seeds, st.sampled_from([2, 4]), st.floats(0.5, 4))
def test_soft_loss_is_the_mean_divergence_of_a_records_pixels(seed: int, classes: int, temperature: float) -> None:
    teacher, student, _ = case(seed, classes)
    expected = np.zeros(B)
    for b, i, j in np.ndindex(B, H, W):
        p, q = softmax(teacher[b, :, i, j] / temperature), softmax(student[b, :, i, j] / temperature)
        expected[b] += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / (H * W)
    found = soft_loss(torch.tensor(teacher), torch.tensor(student), temperature, per_record=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    mean = soft_loss(torch.tensor(teacher), torch.tensor(student), temperature)
    assert float(mean) == pytest.approx(expected.mean())


@few
@given(seeds, st.sampled_from([(2, 1), (4, 2)]), st.sampled_from([0.0, 0.6, 0.9]))
def test_ranking_is_of_confident_pixels(seed: int, sizes: tuple[int, int], confidence: float) -> None:
    classes, top = sizes
    weak, strong, _ = case(seed, classes)
    expected = np.zeros(B)
    for b, i, j in np.ndindex(B, H, W):
        w, s = weak[b, :, i, j], strong[b, :, i, j]
        if max(softmax(w)) < confidence:
            continue
        upper = sorted(range(classes), key=lambda c: -w[c])[:top]
        pairs = [max(0.0, s[v] - s[u]) for u in upper for v in range(classes) if v not in upper]
        expected[b] += sum(pairs) / len(pairs) / (H * W)
    found = ranking_loss(torch.tensor(weak), torch.tensor(strong), top, per_record=True, confidence=confidence)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_ranking_moves_each_pixel_towards_the_weak_models_class_and_no_further() -> None:
    weak = torch.tensor([[[[4.0, -4.0, 0.1, 4.0]], [[-4.0, 4.0, 0.0, -4.0]]]])
    strong = torch.tensor([[[[-1.0, 1.0, -1.0, 3.0]], [[1.0, -1.0, 1.0, 1.0]]]], requires_grad=True)
    loss = ranking_loss(weak, strong, confidence=0.8)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((2 + 2) / 4)
    assert strong.grad is not None
    background, foreground = strong.grad[0, 0, 0], strong.grad[0, 1, 0]
    assert background[0] < 0 < foreground[0], "descent makes the background first where the weak model says so"
    assert foreground[1] < 0 < background[1]
    assert not strong.grad[..., 2].any(), "an unsure pixel says nothing"
    assert not strong.grad[..., 3].any(), "an order that holds is not pushed further"


@few
@given(seeds, st.sampled_from([2, 3]))
def test_figures_of_masks_are_those_of_loops_and_of_scikit_learn(seed: int, classes: int) -> None:
    logits, _, labels = case(seed, classes)
    labels[0] = 0
    labels[1, 0, :classes] = np.arange(classes)
    found = score(logits, labels)
    dice = []
    for b in range(B):
        mine = []
        for c in range(1, classes):
            ours = {(i, j) for i, j in np.ndindex(H, W) if logits[b, :, i, j].argmax() == c}
            true = {(i, j) for i, j in np.ndindex(H, W) if labels[b, i, j] == c}
            mine.append(2 * len(ours & true) / (len(ours) + len(true)) if ours or true else 1.0)
        dice.append(np.mean(mine))
    assert found.dice == pytest.approx(np.mean(dice))
    flat = labels.ravel()
    rows = [logits[b, :, i, j] for b, i, j in np.ndindex(B, H, W)]
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(flat, [row.argmax() for row in rows]))
    p = np.asarray([softmax(row) for row in rows])
    ranked = p[:, 1] if classes == 2 else p
    assert found.auroc == pytest.approx(roc_auc_score(flat, ranked, multi_class="ovr"))
    assert found.ece == pytest.approx(loop_calibration(p.max(axis=1), p.argmax(axis=1) == flat))


def loop_calibration(confidences: Array, right: NDArray[np.bool_]) -> float:
    total = 0.0
    for m in range(15):
        inside = [k for k, c in enumerate(confidences) if m / 15 < c <= (m + 1) / 15]
        if inside:
            accuracy = sum(bool(right[k]) for k in inside) / len(inside)
            confidence = sum(confidences[k] for k in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@few
@given(seeds)
def test_calibration_is_the_papers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidences, right = rng.uniform(0.001, 1, 60), rng.random(60) < 0.7
    assert calibration_error(confidences, right) == pytest.approx(loop_calibration(confidences, right))


def test_certainty_that_is_earned_costs_nothing_and_unearned_all() -> None:
    sure = np.ones(8)
    assert calibration_error(sure, np.ones(8, dtype=bool)) == 0
    assert calibration_error(sure, np.zeros(8, dtype=bool)) == 1
    assert calibration_error(np.full(8, 0.5), np.arange(8) % 2 == 0) == 0


def test_dice_of_a_record_with_nothing_to_find() -> None:
    empty, some = np.zeros((1, 2, 2), dtype=np.int64), np.asarray([[[1, 0], [0, 0]]])
    assert dice_of_each(empty, empty, 2).tolist() == [1.0]
    assert dice_of_each(some, empty, 2).tolist() == [0.0]
    assert dice_of_each(some, some, 2).tolist() == [1.0]
    with pytest.raises(OneClassOnly):
        score(np.zeros((1, 2, 2, 2)), empty)


def test_masks_must_fit_their_images() -> None:
    images = np.zeros((2, 1, 4, 5), dtype=np.float32)
    masks = np.zeros((2, 4, 5), dtype=np.int64)
    assert Records(images, masks, ("a", "b")).masked
    assert PublicSet.of(images, masks).masked
    assert not PublicSet.of(images, None).masked
    assert not Records(images, masks[:, 0, 0], ("a", "b")).masked
    for wrong in (masks[:1], masks[:, :3], masks[:, 0], masks.reshape(2, 5, 4)):
        with pytest.raises(InvalidData, match="labels of shape"):
            Records(images, wrong, ("a", "b"))
    with pytest.raises(InvalidData):
        Records(np.zeros((2, 5), dtype=np.float32), np.zeros((2, 5), dtype=np.int64), ("a", "b"))
