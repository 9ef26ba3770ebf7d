"""Two figures that a majority vote cannot fake: balanced accuracy and the area under the ROC curve.

Written in numpy (the area is the Mann-Whitney statistic), because importing scikit-learn costs each hospital's process
more than a round of training; a test holds both against scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import Inputs, Labels, Records
from secure_fedhelp.errors import OneClassOnly

_BATCH = 1024


@dataclass(frozen=True)
class Metrics:
    """Balanced accuracy and AUROC of one model on one set of records, both in [0, 1]."""

    balanced_accuracy: float
    auroc: float

    def as_dict(self) -> dict[str, float]:
        return {"balanced_accuracy": self.balanced_accuracy, "auroc": self.auroc}


def predict(model: nn.Module, inputs: Inputs) -> NDArray[np.float64]:
    """Logits [n, classes] of the model in evaluation mode, without gradients."""
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(inputs[i : i + _BATCH])) for i in range(0, len(inputs), _BATCH)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def evaluate(model: nn.Module, records: Records) -> Metrics:
    """Metrics of a model on held-out records; OneClassOnly if they are all of one class."""
    return score(predict(model, records.inputs), records.labels)


def score(logits: NDArray[np.float64], labels: Labels) -> Metrics:
    """Metrics of logits [n, classes] against labels [n].

    Balanced accuracy is the mean recall of the classes present. AUROC ranks by the log-odds of class 1 for two classes;
    for more it is the unweighted mean of one-against-rest over the classes present, ranked by softmax probability.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise OneClassOnly("the test records are all of one class: no figure can be computed")
    predicted = logits.argmax(axis=1)
    recalls = [float(np.mean(predicted[labels == c] == c)) for c in present]
    if logits.shape[1] == 2:
        return Metrics(float(np.mean(recalls)), area_under_curve(logits[:, 1] - logits[:, 0], labels == 1))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    areas = [area_under_curve(probabilities[:, c], labels == c) for c in present]
    return Metrics(float(np.mean(recalls)), float(np.mean(areas)))


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative, ties counting half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]  # ties share their mean rank
    n_positive = int(positive.sum())
    n_negative = len(scores) - n_positive
    wins = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(wins / (n_positive * n_negative))
