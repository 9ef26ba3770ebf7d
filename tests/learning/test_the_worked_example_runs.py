"""The method that docs/adding-a-method.md writes: it is short, it runs as printed, and it learns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from documents import blocks

from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import Method, Site
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.learning.models import flatten
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.study.channel import Vector, pack_channels, unpack_mean

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "adding-a-method.md"
NAMES = ("alpha", "beta", "gamma")


def printed() -> str:
    (block,) = blocks(DOCUMENT, "python")
    return block


@pytest.fixture
def installed() -> Iterator[str]:
    """The document's module, importable as it would be at a hospital."""
    module = ModuleType("worked_example")
    exec(compile(printed(), str(DOCUMENT), "exec"), module.__dict__)  # our own document
    sys.modules["worked_example"] = module
    yield "worked_example:AnswersOnly"
    del sys.modules["worked_example"]


def test_it_has_fewer_than_eighty_lines() -> None:
    assert len(printed().splitlines()) < 80


def distance(hospital: Method, means: dict[str, Vector]) -> float:
    """How far the model's answers on the public set are from the cohort's, as a divergence."""
    answers = torch.from_numpy(means["public-logits"]).reshape(-1, 2)
    own = predict(hospital.shared_model(), hospital.site.public.inputs)
    return float(soft_loss(answers, torch.from_numpy(own)))


def test_it_runs_and_learns_from_answers_alone(installed: str, study_with: Callable[..., Any]) -> None:
    method = {"name": "imported", "path": installed}
    study = study_with(method=method, channels=["public-logits"], public_steps=20, public_learning_rate=0.02)
    hospitals: dict[str, Method] = {
        name: make_method(Site(study.plan, name, study.records[name], study.public, None, SeededNoise(name.encode())))
        for name in NAMES
    }
    for number in range(study.plan.study.rounds):
        said = {name: hospital.contribute(number) for name, hospital in hospitals.items()}
        total = sum(pack_channels(study.plan, number, name, output.channels) for name, output in said.items())
        means = unpack_mean(study.plan, number, np.asarray(total), NAMES)
        before = distance(hospitals["beta"], means)
        for hospital in hospitals.values():
            hospital.absorb(number, means)
        assert distance(hospitals["beta"], means) < before
    models = [flatten(hospital.shared_model()) for hospital in hospitals.values()]
    assert all(np.array_equal(other, models[0]) for other in models)
    restored = make_method(hospitals["beta"].site)
    restored.load(hospitals["beta"].save())
    assert np.array_equal(flatten(restored.shared_model()), models[0])
    found = restored.evaluate(study.test)
    assert found["study_model"].auroc > 0.6, "found: 0.72"
    assert found["personal_model"].auroc > 0.7, "found: 0.78"
