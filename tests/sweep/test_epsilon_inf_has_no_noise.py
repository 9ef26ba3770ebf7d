"""A run at epsilon inf is without any noise of privacy: in training, in answers, in draws as wide as their noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ledgers import DATASET, open_ledger

from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan, NotReleasable
from secure_fedhelp.learning.measuring import one_record_each
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.learning.methods.prr import Prr
from secure_fedhelp.privacy.mechanisms import Gaussian, planned_events
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.release import Budget, ReleaseGate
from secure_fedhelp.research import plans
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.in_process import run_in_process
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.execute import Noiseless, execute
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.study import methods
from secure_fedhelp.study.plan import StudyPlan


@pytest.fixture(scope="module")
def data() -> StudyData:
    return prepare("breast-cancer", None, 1)


@pytest.fixture
def noisy(data: StudyData, monkeypatch: pytest.MonkeyPatch) -> StudyPlan:
    monkeypatch.setattr(plans, "noise_for_budget", lambda *_: 3.0)
    chosen = methods.Prr(aligned_from=1, gaussian_prototypes=True)
    return plans.build_plan("breast-cancer", data, 2, 3.0, 1, method=chosen)


def made(plan: StudyPlan, data: StudyData, noise: object) -> Prr:
    name, (_, records) = next(iter(data.hospitals.items()))
    return Prr(Site(plan, name, records, data.public, None, noise))  # type: ignore[arg-type]


def test_counts_and_prototypes_are_exact(noisy: StudyPlan, data: StudyData) -> None:
    plan = plans.without_privacy(noisy)
    member, coins = made(plan, data, Noiseless(b"seed")), Noiseless(b"seed")
    said = member.contribute(0).channels
    bound, most = plan.channel("class-counts").bound, max(h.nominal_patients for h in plan.hospitals)
    scale = bound / (2 * most)
    assert scale < 1
    labels = one_record_each(member.site.records, coins).labels
    wanted = [scale * sum(int(y) == c for y in labels) for c in (0, 1)]
    np.testing.assert_allclose(said["class-counts"], wanted, atol=1e-12)
    other = made(plan, data, Noiseless(b"another")).contribute(0).channels
    np.testing.assert_allclose(said["class-counts"], other["class-counts"], atol=1e-12)
    silent = made(plan, data, SeededNoise(b"seed")).contribute(0).channels  # whoever makes the noise: it is none
    np.testing.assert_allclose(said["class-counts"], silent["class-counts"], atol=1e-12)
    under_noise = made(noisy, data, SeededNoise(b"seed")).contribute(0).channels
    assert np.abs(said["class-counts"] - under_noise["class-counts"]).max() > scale


def test_prototypes_are_compared_with_themselves_and_not_with_a_draw(noisy: StudyPlan, data: StudyData) -> None:
    compared = []
    for plan in (plans.without_privacy(noisy), noisy):
        member = made(plan, data, Noiseless(b"seed"))
        said = member.contribute(0).channels
        member.absorb(0, dict(said))
        assert member.counts is not None
        sums = said["prototypes"].reshape(2, -1) * 2 * max(h.nominal_patients for h in plan.hospitals)
        sums /= plan.channel("prototypes").bound
        compared.append(np.allclose(member._compared_with(1), sums / member.counts[:, None]))
    assert compared == [True, False]


def test_whole_studies_run_and_nothing_of_them_could_be_released(noisy: StudyPlan, data: StudyData) -> None:
    plan = plans.without_privacy(noisy)
    found = list(run_in_process(plan, data, None, lambda name: Noiseless(name.encode())))
    assert len(found) == len(plan.hospitals)
    assert not [e for e in found[0][1].contribute(1).events if isinstance(e, Gaussian)]
    with pytest.raises(InvalidPlan, match="noise_multiplier"):
        planned_events(plan, plan.hospitals[0].name, 0)
    assert planned_events(noisy, plan.hospitals[0].name, 0)


def test_a_rival_without_privacy_trains_without_noise_too() -> None:
    """It shares the plan, whose gradients are cut at a million: noise in that measure would leave no model at all."""
    study = StudyFile(name="quick", dataset="breast-cancer", rounds=3, seed=4)
    aurocs = []
    for epsilon in (math.inf, 0.3):
        (run,) = expand(study, ["local-dp-warm"], [epsilon], 1, False, None)
        aurocs.append([h.metrics["auroc"] for h in execute(run).hospitals])
    assert min(aurocs[0]) > 0.9
    assert np.mean(aurocs[0]) > np.mean(aurocs[1])


def test_what_was_made_without_noise_passes_no_gate(data: StudyData, tmp_path: Path) -> None:
    """Of any method: the plan of a run without noise looks like one with, so the source of the noise has to tell."""
    study = StudyFile.model_validate({"name": "a", "dataset": "breast-cancer", "rounds": 1})
    plan = plans.without_privacy(plans.study_plan(study, data))
    name, (_, records) = next(iter(data.hospitals.items()))
    member = make_method(Site(plan, name, records, data.public, None, Noiseless(b"seed")))
    with open_ledger(tmp_path / "ledger.jsonl", name) as ledger:
        gate = ReleaseGate(ledger, plan, name, Budget(DATASET))
        with pytest.raises(NotReleasable, match="noise of source 'none'"):
            gate.release(0, member.contribute(0))
        assert ledger.count == 0


def test_a_run_without_privacy_is_never_encrypted() -> None:
    study = StudyFile.model_validate({"name": "a", "dataset": "breast-cancer", "rounds": 1})
    (run,) = expand(study, ["fedavg"], [math.inf], 1, False, None)
    with pytest.raises(InvalidConfiguration, match="nothing may leave"):
        execute(replace(run, encrypted=True))


def test_gradients_are_clipped_as_ever(noisy: StudyPlan) -> None:
    norms = {tier: section.clipping_norm for tier, section in noisy.privacy.items()}
    assert {tier: s.clipping_norm for tier, s in plans.without_privacy(noisy).privacy.items()} == norms
