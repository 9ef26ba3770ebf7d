"""Figures that a majority vote cannot fake: balanced accuracy, AUROC, macro-F1, Dice; and whether certainty is earned.

Written in numpy (the area is the Mann-Whitney statistic), because importing scikit-learn costs each hospital's process
more than a round of training; a test holds both against scikit-learn's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import Inputs, Labels, Records
from secure_fedhelp.errors import Diverged, OneClassOnly

#: Records, and values of inputs, that are judged at once: a network's layers hold many times as much.
_BATCH, _BATCH_VALUES = 1024, 2**20
#: Bins of equal width for the calibration error, as in the paper.
_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """One model on one set of records; every figure in [0, 1].

    For a segmentation, balanced accuracy, AUROC and calibration are over the pixels of all records together, and
    ``dice`` is there: the mean over records. ``ece`` is the expected calibration error; the lower, the better.
    ``macro_f1`` is of a classification.
    """

    balanced_accuracy: float
    auroc: float
    ece: float | None = None
    dice: float | None = None
    macro_f1: float | None = None

    def as_dict(self) -> dict[str, float]:
        """The figures that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def predict(model: nn.Module, inputs: Inputs) -> NDArray[np.float64]:
    """Logits [n, classes] (of every pixel: [n, classes, height, width]) in evaluation mode, without gradients."""
    model.eval()
    size = min(_BATCH, max(1, _BATCH_VALUES // inputs[0].size)) if len(inputs) else 1
    with torch.no_grad():
        parts = [model(torch.from_numpy(inputs[i : i + size])) for i in range(0, len(inputs), size)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def evaluate(model: nn.Module, records: Records) -> Metrics:
    """Metrics of a model on held-out records; OneClassOnly if they are all of one class."""
    return score(predict(model, records.inputs), records.labels)


def score(logits: NDArray[np.float64], labels: Labels) -> Metrics:
    """Metrics of logits [n, classes] against labels [n], or [n, classes, height, width] against [n, height, width].

    Balanced accuracy is the mean recall of the classes present. AUROC ranks by the log-odds of class 1 for two classes;
    for more it is the unweighted mean of one-against-rest over the classes present, ranked by softmax probability.
    Raises OneClassOnly, and Diverged for logits that are none: whose rival is broken gains nothing by it.
    """
    if not np.isfinite(logits).all():
        raise Diverged("the model answers NaN or infinity")
    dice = None
    if labels.ndim > 1:
        dice = float(np.mean(dice_of_each(logits.argmax(axis=1), labels, logits.shape[1])))
        logits, labels = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1)
    present = np.unique(labels)
    if len(present) < 2:
        raise OneClassOnly("the test records are all of one class: no figure can be computed")
    predicted, probabilities = logits.argmax(axis=1), _softmax(logits)
    recalls = [float(np.mean(predicted[labels == c] == c)) for c in present]
    if logits.shape[1] == 2:
        areas = [area_under_curve(logits[:, 1] - logits[:, 0], labels == 1)]
    else:
        areas = [area_under_curve(probabilities[:, c], labels == c) for c in present]
    error = calibration_error(probabilities.max(axis=1), predicted == labels)
    f1 = macro_f1(predicted, labels) if dice is None else None
    return Metrics(float(np.mean(recalls)), float(np.mean(areas)), error, dice, f1)


def macro_f1(predicted: Labels, labels: Labels) -> float:
    """Mean over the classes present in ``labels`` [n] of F1 = 2 TP / (2 TP + FP + FN), each class with the same say."""
    found = []
    for c in np.unique(labels):
        ours, true = predicted == c, labels == c
        found.append(2 * float((ours & true).sum()) / float(ours.sum() + true.sum()))
    return float(np.mean(found))


def dice_of_each(predicted: Labels, labels: Labels, classes: int) -> NDArray[np.float64]:
    """Dice coefficient of each record, [n], from masks [n, height, width]: 2 |P and G| / (|P| + |G|).

    The mean over the classes but 0, the background. A class that a record does not have and that is not predicted in
    it counts 1: there was nothing to find, and nothing was found.
    """
    values = np.ones((len(labels), classes - 1))
    for c in range(1, classes):
        ours, true = (predicted == c).reshape(len(labels), -1), (labels == c).reshape(len(labels), -1)
        sizes = ours.sum(axis=1) + true.sum(axis=1)
        some = sizes > 0
        values[some, c - 1] = 2 * (ours & true).sum(axis=1)[some] / sizes[some]
    return np.asarray(values.mean(axis=1))


def calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo and others, ICML 2017) of confidences in (0, 1] and whether they were right.

    The mean distance of accuracy from confidence over 15 bins of equal width, weighted by what is in them. Under a
    class prior a model answers as if all classes were equally frequent, and is less calibrated to the true frequencies.
    """
    bins = np.clip(np.ceil(confidences * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    sums = np.bincount(bins, weights=right.astype(np.float64) - confidences, minlength=_BINS)
    return float(np.abs(sums).sum() / len(confidences))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative, ties counting half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]  # ties share their mean rank
    n_positive = int(positive.sum())
    n_negative = len(scores) - n_positive
    wins = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))
