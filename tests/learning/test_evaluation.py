"""Metrics: equal to scikit-learn's, and no figure where none can be given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import Diverged, OneClassOnly
from secure_fedhelp.learning.evaluation import Metrics, evaluate, score
from secure_fedhelp.learning.models import build


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5]))
def test_metrics_are_scikit_learns(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 40)])
    logits = rng.normal(size=(len(labels), classes)) + np.eye(classes)[labels]
    if classes == 2:
        logits = np.round(logits)  # many ties
    found = score(logits, labels)
    e = np.exp(logits)
    p = e / e.sum(axis=1, keepdims=True)
    ovr = {"multi_class": "ovr"}
    reference = roc_auc_score(labels, logits[:, 1] - logits[:, 0]) if classes == 2 else roc_auc_score(labels, p, **ovr)
    assert found.auroc == pytest.approx(reference, abs=1e-12)
    predicted = logits.argmax(axis=1)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-12)


def test_a_majority_vote_earns_nothing() -> None:
    labels = np.asarray([0] * 9 + [1])
    found = score(np.tile([1.0, 0.0], (10, 1)), labels)
    f1 = (2 * 9 / 19 + 0) / 2
    assert found == Metrics(0.5, 0.5, found.ece, macro_f1=f1)
    assert found.as_dict() == {"balanced_accuracy": 0.5, "auroc": 0.5, "ece": found.ece, "macro_f1": f1}
    assert found.ece == pytest.approx(0.9 - np.e / (1 + np.e)), "certain by 73 per cent, right in 90"


def test_an_absent_class_is_left_out_and_one_class_alone_is_refused() -> None:
    labels = np.asarray([0, 0, 2, 2])
    logits = np.asarray([[2.0, 0, 0], [2, 0, 0], [0, 0, 2], [0, 0, 2]])
    found = score(logits, labels)
    assert (found.balanced_accuracy, found.auroc, found.macro_f1) == (1.0, 1.0, 1.0)
    with pytest.raises(OneClassOnly):
        score(logits, np.zeros(4, dtype=np.int64))


def test_a_model_is_judged_in_batches_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    records = Records(rng.normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2, ("p",) * 20)
    model = build("mlp-4", (3,), 2, seed=1)
    whole = evaluate(model, records)
    monkeypatch.setattr("secure_fedhelp.learning.evaluation._BATCH", 7)
    assert evaluate(model, records).as_dict() == pytest.approx(whole.as_dict(), abs=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_model_that_diverged_has_no_figures(broken: float) -> None:
    """It would score as chance, and whoever it is compared with would seem to gain."""
    logits = np.zeros((4, 2))
    logits[1, 0] = broken
    with pytest.raises(Diverged):
        score(logits, np.asarray([0, 1, 0, 1]))
