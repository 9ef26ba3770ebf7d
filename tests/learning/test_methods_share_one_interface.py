"""Every method by the one interface: what it says fits the plan, all hospitals keep one model, a checkpoint goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from secure_fedhelp.errors import InvalidPlan, PlanChanged, StorageError
from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.method import Bounds, Method, Site
from secure_fedhelp.learning.methods import make_method, method_class
from secure_fedhelp.learning.models import flatten
from secure_fedhelp.learning.steps import home_steps
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.research import plans
from secure_fedhelp.research.catalog import prepare
from secure_fedhelp.study.channel import Vector, pack_channels, unpack_mean
from secure_fedhelp.study.methods import FedAvg, FedHelp, MethodSection, PfedNet, Prr

#: conftest.TinyStudy; pytest finds fixtures by name, not by type.
Study = Any
NAMES = ("alpha", "beta", "gamma")
METHODS: list[dict[str, Any]] = [
    {"name": "fedavg"},
    {"name": "fedprox", "proximal_weight": 0.5},
    {"name": "ditto", "proximal_weight": 0.5},
    {"name": "fedhelp"},
    {"name": "fedhelp", "twin": True},
    {"name": "proxyfl"},
    {"name": "proxyfl", "twin": True},
    {"name": "prr", "band_start": 1.0, "band_end": 1.0, "aligned_from": 1},
]
#: Methods whose shared model is each hospital's own version of what they have in common.
OWN_VERSIONS: list[dict[str, Any]] = [
    {"name": "prr", "aligned_from": 1, "gaussian_prototypes": True},
    {"name": "prr", "twin": True, "aggregation": "amplitude"},
    {"name": "prr", "det": False, "cpa": False, "aggregation": "phase"},
]
every_method = pytest.mark.parametrize("method", METHODS + OWN_VERSIONS, ids=lambda m: "-".join(map(str, m.values())))


def site(study: Study, name: str, noise: bytes = b"") -> Site:
    return Site(study.plan, name, study.records[name], study.public, study.teacher, SeededNoise(name.encode() + noise))


def members(study: Study) -> dict[str, Method]:
    return {name: make_method(site(study, name)) for name in NAMES}


def run_round(study: Study, hospitals: dict[str, Method], number: int) -> dict[str, Vector]:
    said = {name: hospital.contribute(number) for name, hospital in hospitals.items()}
    for name, output in said.items():
        assert output.events == planned_events(study.plan, name, number)
        assert set(output.proofs) == set(output.channels) == set(study.plan.lengths(number))
    total = sum(pack_channels(study.plan, number, name, output.channels) for name, output in said.items())
    means = unpack_mean(study.plan, number, np.asarray(total), NAMES)
    for hospital in hospitals.values():
        hospital.absorb(number, means)
    return means


@every_method
def test_what_a_method_says_fits_the_plan_and_all_keep_one_model(
    method: dict[str, Any], study_with: Callable[..., Study]
) -> None:
    study = study_with(method=method)
    hospitals = members(study)
    before = {name: hospital.evaluate_shared(study.test).auroc for name, hospital in hospitals.items()}
    for number in range(study.plan.study.rounds):
        run_round(study, hospitals, number)
    if method in METHODS:
        shared = [flatten(hospital.shared_model()) for hospital in hospitals.values()]
        assert all(np.array_equal(other, shared[0]) for other in shared)
    bases = [hospital.base for hospital in hospitals.values() if isinstance(hospital, Averaging)]
    assert len(bases) == 3
    assert all(np.array_equal(other, bases[0]) for other in bases)
    for name, hospital in hospitals.items():
        found = hospital.evaluate(study.test)
        assert found["study_model"].auroc > before[name] + 0.02, "found: 0.81 to 0.90, from 0.78 or 0.69"
        assert found["personal_model"].auroc > 0.7, "found: 0.75 and more"
        assert set(hospital.export_models()) == {"shared", "personal"}


@every_method
def test_a_checkpoint_goes_on_exactly(method: dict[str, Any], study_with: Callable[..., Study]) -> None:
    study = study_with(method=method)
    hospitals = members(study)
    run_round(study, hospitals, 0)
    restored = {name: make_method(site(study, name, b"later")) for name in hospitals}
    for name, hospital in hospitals.items():
        restored[name].load(hospital.save())
        hospital.site = replace(hospital.site, noise=SeededNoise(name.encode() + b"later"))
    for number in (1, 2):
        one, two = run_round(study, hospitals, number), run_round(study, restored, number)
        assert all(np.array_equal(one[channel], two[channel]) for channel in one)
    for name, hospital in hospitals.items():
        assert np.array_equal(flatten(hospital.personalise()), flatten(restored[name].personalise())), "at home too"


@every_method
def test_training_again_after_a_crash_changes_nothing_that_is_kept(
    method: dict[str, Any], study_with: Callable[..., Study]
) -> None:
    hospital = members(study_with(method=method))["beta"]
    before = hospital.save()
    hospital.contribute(0)
    assert hospital.save() == before


def test_checkpoints_of_another_study_or_with_something_missing_are_refused(study_with: Callable[..., Study]) -> None:
    study, other = study_with(method={"name": "fedavg"}), study_with(method={"name": "ditto"})
    hospital = members(study)["beta"]
    with pytest.raises(PlanChanged):
        members(other)["beta"].load(hospital.save())
    hospital.state = dict  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="damaged"):
        members(study)["beta"].load(hospital.save())


def test_the_proximal_pull_draws_private_steps_back_to_their_start(
    study_with: Callable[..., Study], nobody_drawn: Any
) -> None:
    """Nobody is drawn and the noise is constant, so each step is w -= rate (noise + mu (w - start))."""
    updates = {}
    for mu in (0.0, 0.8):
        study = study_with(method={"name": "fedprox", "proximal_weight": mu})
        free = make_method(replace(site(study, "beta"), noise=nobody_drawn))
        assert isinstance(free, Averaging)
        model = free.start(1)
        start = flatten(model)
        free.private_steps(model, 1)
        updates[mu] = flatten(model) - start
    privacy, rate = study.plan.privacy["small"], study.plan.learning.private_learning_rate
    noise = 0.01 * privacy.noise_multiplier * privacy.clipping_norm / (privacy.sampling_rate * 20)
    moved = updates[0.0] != 0  # the public head takes no private step
    expected = {mu: -rate * noise * sum((1 - rate * mu) ** k for k in range(privacy.steps)) for mu in updates}
    for mu, update in updates.items():
        np.testing.assert_allclose(update[moved], expected[mu], rtol=1e-3)
        assert not update[~moved].any()


def test_dittos_personal_model_is_drawn_towards_the_shared_one(study_with: Callable[..., Study]) -> None:
    def distance(weight: float) -> float:
        study = study_with(method={"name": "ditto", "proximal_weight": weight}, personal_steps=30)
        hospital = members(study)["alpha"]
        return float(np.linalg.norm(flatten(hospital.personalise()) - flatten(hospital.shared_model())))

    assert distance(0.0) > distance(10.0) > distance(1000.0) > 0


def test_dittos_first_step_is_the_gradient_of_its_objective(study: Study, study_with: Callable[..., Study]) -> None:
    study = study_with(method={"name": "ditto", "proximal_weight": 3.0})
    hospital = members(study)["beta"]
    assert isinstance(hospital, Averaging)
    model = hospital.shared_model()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.25)
    penalty = hospital.lesson(model)(torch.zeros(1, 5), torch.zeros(1, 2))
    assert float(penalty.detach()) == pytest.approx(3.0 / 2 * 0.25**2 * sum(p.numel() for p in model.parameters()))
    home_steps(model, study.records["beta"], 1, 0.01, study.plan, np.random.default_rng(0), hospital.lesson(model))


class Silent(Averaging):
    """A method from outside: it only listens to its own options."""

    def train(self, round_number: int) -> Any:
        said = super().train(round_number)
        assert self.plan.method.name == "imported"
        return replace(said, values={"model-update": np.zeros_like(said.values["model-update"])})


def test_a_method_may_be_imported_and_must_be_one(study_with: Callable[..., Study]) -> None:
    def made(path: str) -> Method:
        return make_method(site(study_with(method={"name": "imported", "path": path}), "beta"))

    output = made(f"{__name__}:Silent").contribute(0)
    assert not output.channels["model-update"].any()
    for path, reason in (
        ("nowhere.at_all:Method", "no method nowhere.at_all:Method"),
        ("secure_fedhelp.learning.method:Nothing", "no method"),
        ("secure_fedhelp.learning.method:Site", "no subclass"),
        (f"{__name__}:made", "no"),
    ):
        with pytest.raises(InvalidPlan, match=reason):
            made(path)


def test_a_plan_whose_channels_are_not_the_methods_is_refused(study_with: Callable[..., Study]) -> None:
    study = study_with(method={"name": "fedhelp"})
    for plan, reason in (
        (study_with(method={"name": "fedavg"}).plan.model_copy(update={"channels": study.plan.channels}), "needs 0"),
        (study.plan.model_copy(update={"channels": study.plan.channels[:1]}), "public-logits has length 0"),
        (study.plan.model_copy(update={"channels": study.plan.channels[1:]}), "model-update has length 0"),
    ):
        with pytest.raises(InvalidPlan, match=reason):
            make_method(replace(site(study, "beta"), plan=plan))


class Whisper(Averaging):
    """A method with a channel of its own, which does not say how it is declared."""

    @classmethod
    def lengths(cls, plan: Any) -> dict[str, int | tuple[int, ...]]:
        return {"whisper": 3}


def test_how_a_channel_of_ones_own_is_declared_is_never_guessed(study_with: Callable[..., Study]) -> None:
    plan, bounds = study_with(method={"name": "fedhelp"}).plan, Bounds(update=2.0, logits=8.0, sketch=1.0)
    assert tuple(method_class(plan.method).channels(plan, bounds)) == plan.channels
    with pytest.raises(InvalidPlan, match="channel whisper is Whisper's own"):
        Whisper.channels(plan, bounds)


@pytest.mark.parametrize(
    "chosen", [FedAvg(), FedHelp(), PfedNet(segments=True), Prr(aligned_from=1)], ids=lambda m: m.name
)
def test_a_research_plan_is_one_that_its_own_method_takes(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "noise_for_budget", lambda *_: 2.0)  # what noise it is says nothing here
    data = prepare("breast-cancer", None, 1)
    plan = plans.build_plan("breast-cancer", data, 3, 3.0, 1, method=chosen)
    name, (_, records) = next(iter(data.hospitals.items()))
    made = make_method(Site(plan, name, records, data.public, None, SeededNoise(b"x")))
    assert set(made.contribute(0).channels) == set(plan.lengths(0))


def test_another_methods_options_are_refused(study_with: Callable[..., Study]) -> None:
    for options in ({"name": "fedavg", "twin": True}, {"name": "magic"}, {"name": "fedprox", "proximal_weight": -1}):
        with pytest.raises(InvalidPlan, match="method"):
            study_with(method=options)
    plan = study_with(method={"name": "fedavg"}).plan
    section: MethodSection = plan.method
    assert section.name == "fedavg"
    with pytest.raises(InvalidPlan, match="fedavg, not FedHelp"):
        plan.options(FedHelp)
