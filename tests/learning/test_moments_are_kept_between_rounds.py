"""A model that is trained at home a few steps a round: as good as if it had been trained in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fedhelp.learning.models import flatten
from secure_fedhelp.learning.moments import Moments
from secure_fedhelp.learning.steps import fresh_model, home_steps

Study = Any


def trained(study: Study, calls: int, steps: int, keep: Callable[[Moments], Moments | None]) -> NDArray[np.float64]:
    """A large network after ``calls`` times ``steps`` steps, each on all records, so that batches are the same."""
    model, records = fresh_model(study.plan, study.plan.model.large), study.records["alpha"]
    learning = study.plan.learning.model_copy(update={"home_batch": len(records)})
    plan, moments = study.plan.model_copy(update={"learning": learning}), keep(Moments())
    for _ in range(calls):
        home_steps(model, records, steps, 0.01, plan, np.random.default_rng(0), moments=moments)
        moments = None if moments is None else keep(moments)
    return flatten(model)


def through_a_checkpoint(moments: Moments) -> Moments:
    found = Moments()
    found.restore(moments.state())
    return found


@pytest.mark.parametrize("keep", [lambda moments: moments, through_a_checkpoint], ids=["kept", "checkpoint"])
def test_rounds_lead_where_one_go_leads(study: Study, keep: Callable[[Moments], Moments | None]) -> None:
    np.testing.assert_allclose(trained(study, 4, 3, keep), trained(study, 1, 12, keep), atol=1e-5)


def test_an_optimizer_anew_each_round_leads_elsewhere(study: Study) -> None:
    """So the test above can fail."""
    anew, kept = (trained(study, 4, 3, keep) for keep in (lambda moments: None, lambda moments: moments))
    assert np.abs(anew - kept).max() > 1e-3


def test_before_the_first_step_there_is_nothing_to_keep(study: Study) -> None:
    moments = Moments()
    model = fresh_model(study.plan, study.plan.model.large)
    home_steps(model, study.records["alpha"], 0, 0.01, study.plan, np.random.default_rng(0), moments=moments)
    assert moments.state() == {}
    moments.restore({"base": np.zeros(3)})
    assert moments.state() == {}
