"""Sweeps of a study that takes seconds, and results and engines that take none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.execute import HospitalResult, RunResult
from secure_fedhelp.research.sweep.runs import FREE, RIVALS, Run, expand

STUDY = StudyFile.model_validate(
    {
        "name": "quick",
        "dataset": "breast-cancer",
        "rounds": 1,
        "learning": {"warm_steps": 1, "pupil_steps": 1, "personal_steps": 1, "public_steps": 1},
        "variants": {
            "no-logits": {"method": {"name": "fedhelp", "logits": False}},
            "small-alone": {"hospitals": ["small-1", "small-2", "small-3"]},
        },
    }
)


OWN = """
name = "own"
[data]
path = "own.csv"
[parts]
public = 20
reference = 20
test = 40
[partition]
kind = "sizes"
shares = { a = 1, b = 1, c = 1 }
"""


def own(folder: Path, shift: int = 0, suffix: str = ".csv") -> StudyFile:
    folder.mkdir(exist_ok=True)
    rows = [
        "patient_id,age,target",
        *(f"p{n},{n % 89 + 10 + shift},{'ill' if n % 89 > 40 else 'well'}" for n in range(300)),
    ]
    (folder / f"own{suffix}").write_text("\n".join(rows) + "\n")
    (folder / "study.toml").write_text(OWN.replace(".csv", suffix))
    return load_study(folder / "study.toml")


def runs(*contenders: str, epsilons: Sequence[float] = (3.0,), seeds: int = 2, encrypted: bool = False) -> list[Run]:
    return expand(STUDY, contenders, epsilons, seeds, encrypted, None)


def result(run: Run, auroc: float = 0.5, **changes: Any) -> RunResult:
    """A finished run with figures of our own; ``changes`` are fields of the result."""
    found = tuple(HospitalResult(name, "small", "personal", {"auroc": auroc}) for name in ("a", "b"))
    about: dict[str, Any] = {
        "study": "quick",
        "dataset": "d",
        "method": "{}",
        "rounds": 1,
        "plan_sha256": "0",
        "versions": "v",
    }
    spent: dict[str, Any] = {"epsilon_spent": 1.0, "bytes_up": 4.0, "seconds": 0.1}
    where: dict[str, Any] = {"epsilon": f"{run.epsilon:g}", "seed": run.study.seed, "encryption": run.encryption}
    fields = {"run": run.id, "contender": run.contender, "hospitals": found, **about, **spent, **where}
    return RunResult(**fields | changes)


HOSPITALS = (("large-1", "large"), ("small-1", "small"), ("small-2", "small"))


def figure(run: Run, tier: str, model: str) -> float:
    """A figure that differs for every contender, budget, tier, model and seed."""
    budget = 0.0 if run.contender in FREE or math.isinf(run.epsilon) else run.epsilon
    name = sum(map(ord, run.contender)) % 17
    wobble = (run.study.seed * 7 + name) % 5
    return 0.6 + 0.004 * name + 0.01 * budget + 0.05 * (tier == "large") + 0.02 * (model == "personal") + 0.003 * wobble


def measured(run: Run, metrics: Sequence[str] = ("auroc", "balanced_accuracy", "ece")) -> RunResult:
    """A finished run with every metric at three hospitals and of all its models."""
    models = (run.contender,) if run.contender in RIVALS else ("shared", "personal")
    found = tuple(
        HospitalResult(name, tier, model, {m: figure(run, tier, model) / (n + 1) for n, m in enumerate(metrics)})
        for name, tier in HOSPITALS
        for model in models
    )
    sent = 0.0 if run.contender in RIVALS else 1000.0 * (2 + len(run.contender))
    return result(run, hospitals=found, bytes_up=sent, plan_sha256=f"{run.id}{run.id}", versions="torch 2")


class Counting:
    """An engine that counts what it is given, and may die on the way."""

    def __init__(self, dies_after: int | None = None, fails: str | None = None) -> None:
        self.done: list[str] = []
        self.dies_after, self.fails = dies_after, fails

    def __call__(self, given: Sequence[Run]) -> Iterator[Outcome]:
        for run in given:
            if len(self.done) == self.dies_after:
                raise KeyboardInterrupt
            self.done.append(run.id)
            error = "InvalidData: broken" if run.contender == self.fails else None
            yield Outcome(run, None if error else result(run), error)
