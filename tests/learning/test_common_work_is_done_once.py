"""Hospitals of one process share work that follows from public things, and nothing that differs between them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.learning.common_work import CommonWork, key_of
from secure_fedhelp.learning.models import build, flatten
from secure_fedhelp.learning.steps import public_steps
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.study_file import StudyFile


def model(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def values(of: nn.Module) -> list[float]:
    return torch.cat([p.detach().reshape(-1) for p in of.parameters()]).tolist()


class Counted:
    """Adds one to every parameter, and counts how often it was asked to."""

    def __init__(self, target: nn.Module) -> None:
        self.target, self.calls = target, 0

    def __call__(self) -> None:
        self.calls += 1
        with torch.no_grad():
            for p in self.target.parameters():
                p += 1


def test_who_comes_second_gets_what_the_first_made_and_does_nothing() -> None:
    common, one, two = CommonWork(), model(), model()
    first, second = Counted(one), Counted(two)
    key = key_of(one, "steps")
    common.once(key, one, first)
    common.once(key_of(two, "steps"), two, second)
    assert (first.calls, second.calls) == (1, 0)
    assert values(one) == values(two)


def test_a_model_that_goes_on_changes_nothing_for_those_who_come_later() -> None:
    common, one, two = CommonWork(), model(), model()
    key = key_of(one, "steps")
    common.once(key, one, Counted(one))
    made = values(one)
    with torch.no_grad():
        next(one.parameters()).zero_()
    common.once(key, two, Counted(two))
    assert values(two) == made


def test_threads_at_the_same_step_wait_for_one_of_them() -> None:
    common, calls, barrier = CommonWork(), [], threading.Barrier(4)
    models = [model() for _ in range(4)]

    def take(own: nn.Module) -> None:
        barrier.wait()
        key = key_of(own, "steps")
        work = Counted(own)
        common.once(key, own, work)
        calls.append(work.calls)

    threads = [threading.Thread(target=take, args=(m,)) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [0, 0, 0, 1]
    assert all(values(m) == values(models[0]) for m in models)


def test_every_difference_makes_another_key() -> None:
    answers = np.arange(6.0).reshape(3, 2)
    keys = [
        key_of(model(), "steps"),
        key_of(model(2), "steps"),
        key_of(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), "steps"),
        key_of(model(), "other"),
        key_of(model(), "steps", None),
        key_of(model(), "steps", answers),
        key_of(model(), "steps", answers + 1),
        key_of(model(), "steps", answers.reshape(2, 3)),
        key_of(model(), "steps", answers.astype(np.float32)),
        key_of(model(), "steps", answers, answers),
    ]
    assert len(set(keys)) == len(keys)


def test_after_a_failure_the_next_tries_again() -> None:
    common, one = CommonWork(), model()
    key = key_of(one, "steps")

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        common.once(key, one, fails)
    work = Counted(one)
    common.once(key, one, work)
    assert work.calls == 1


def test_no_more_bytes_are_kept_than_allowed() -> None:
    size = sum(values.nbytes for values in model().state_dict().values())
    common, one = CommonWork(kept=2 * size), model()
    for name in ("a", "b", "c"):
        own = model()
        common.once(name, own, Counted(own))
    kept, gone = Counted(one), Counted(one)
    common.once("c", one, kept)
    common.once("a", one, gone)
    assert (kept.calls, gone.calls) == (0, 1)


def test_a_model_larger_than_all_that_may_be_kept_is_trained_and_not_kept() -> None:
    common, one = CommonWork(kept=1), model()
    works = [Counted(one), Counted(one)]
    for work in works:
        common.once("a", one, work)
    assert [work.calls for work in works] == [1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"learning": {"public_learning_rate": 0.02}},
        {"learning": {"temperature": 2.0}},
        {"round": 1},
        {"seed": 2},
        {"teacher": 1.0},
        {"ensemble": 1.0},
        {"weight": 0.5},
    ],
)
def test_public_steps_that_differ_in_anything_are_not_shared(change: dict[str, Any]) -> None:
    """Two hospitals of one study never differ in these; two studies in one process do."""
    assert not np.allclose(stepped({"ensemble": 0.0}), stepped({"ensemble": 0.0} | change))


def stepped(change: dict[str, Any]) -> NDArray[np.float64]:
    study = StudyFile.model_validate(
        {"name": "a", "dataset": "breast-cancer", "rounds": 2, "learning": change.get("learning", {})}
    )
    data = study_data(study, None)
    plan = study_plan(study, data)
    plan = plan.model_copy(update={"study": plan.study.model_copy(update={"seed": change.get("seed", 1)})})
    torch.manual_seed(0)
    made = build(plan.model.small, plan.data.input_shape, 2, 1)
    noise = np.random.default_rng(0).normal(size=(2, len(data.public), 2))
    ensemble = (noise[1] + np.array([change["ensemble"], 0]), change.get("weight", 1.0))
    teacher = noise[0] + np.array([change.get("teacher", 0.0), 0])
    public_steps(made, plan, change.get("round", 0), data.public, teacher, ensemble)
    return flatten(made)
