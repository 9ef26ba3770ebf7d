"""ProxyFL behind the valve: the proxy alone leaves, and the private model teaches it only as a jointly clipped twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_fedhelp.learning import averaging
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods import make_method, proxyfl, prr
from secure_fedhelp.learning.methods.proxyfl import ProxyFl, mutual_losses
from secure_fedhelp.learning.models import flatten
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.study import methods
from secure_fedhelp.study.channel import pack_channels, unpack_mean

Study = Any
Make = Callable[..., Study]
NAMES = ("alpha", "beta", "gamma")
TWIN = {"name": "proxyfl", "twin": True}


def hospital(study: Study, name: str, noise: object | None = None, records: object | None = None) -> Any:
    source, mine = noise or SeededNoise(name.encode()), records or study.records[name]
    return make_method(Site(study.plan, name, mine, study.public, study.teacher, source))  # type: ignore[arg-type]


def run_study(study: Study) -> dict[str, Any]:
    hospitals = {name: hospital(study, name) for name in NAMES}
    for number in range(study.plan.study.rounds):
        said = {name: h.contribute(number).channels for name, h in hospitals.items()}
        total = sum(pack_channels(study.plan, number, name, channels) for name, channels in said.items())
        means = unpack_mean(study.plan, number, np.asarray(total), NAMES)
        for h in hospitals.values():
            h.absorb(number, means)
    return hospitals


def softmax(logits: NDArray[np.float64]) -> list[float]:
    top = [math.exp(z) for z in logits]
    return [z / sum(top) for z in top]


def divergence(teacher: NDArray[np.float64], student: NDArray[np.float64], temperature: float) -> float:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# --- the equations ----------------------------------------------------------------------------------------------------


def test_both_losses_are_the_papers_and_no_teacher_is_trained() -> None:
    rng = np.random.default_rng(3)
    proxy, private, labels = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    alpha, beta, temperature = 0.3, 0.8, 2.0
    options = methods.ProxyFl(private_share=alpha, proxy_share=beta, twin=True)

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return -torch.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]

    wanted = []
    for d, p, y in zip(proxy, private, labels, strict=True):
        of_private = (1 - alpha) * -math.log(softmax(p)[y]) + alpha * divergence(d, p, temperature)
        of_proxy = (1 - beta) * -math.log(softmax(d)[y]) + beta * divergence(p, d, temperature)
        wanted.append(of_private + of_proxy)
    both = torch.tensor(np.concatenate([proxy, private], axis=1), requires_grad=True)
    found = mutual_losses(cross_entropy, options, temperature)(both, torch.tensor(labels))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert both.grad is not None
    for half, (student, teacher, share) in enumerate(((proxy, private, beta), (private, proxy, alpha))):
        for i, y in enumerate(labels):
            s, t, soft = softmax(student[i]), softmax(teacher[i] / temperature), softmax(student[i] / temperature)
            gradient = [
                (1 - share) * (s[c] - (c == y)) + share * (soft[c] - t[c]) / temperature for c in range(3)
            ]  # of cross entropy, and of a divergence whose teacher stands still
            np.testing.assert_allclose(both.grad[i, 3 * half : 3 * half + 3].numpy(), gradient, atol=1e-9)


def test_at_home_the_private_model_learns_from_labels_and_from_the_cohorts_proxy(
    study_with: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_with(method={"name": "proxyfl", "private_share": 0.3}, temperature=2.0)
    member = hospital(study, "beta")
    asked: list[Any] = []
    monkeypatch.setattr(proxyfl, "home_steps", lambda *given: asked.append(given))
    update = 0.1 * np.ones(len(member.base))
    member.learn(0, {"model-update": update})
    ((_, records, steps, rate, _, _, lesson, losses, _),) = asked
    assert records is study.records["beta"]
    assert (steps, rate) == (1, study.plan.learning.personal_learning_rate), "3 personal steps in 3 rounds"
    inputs, labels = torch.from_numpy(records.inputs[:6]), torch.from_numpy(records.labels[:6])
    logits = np.random.default_rng(0).normal(size=(6, 2))
    with torch.no_grad():
        answers = member.shared_model()(inputs).double().numpy()
    np.testing.assert_allclose(flatten(member.shared_model()), member.base, atol=1e-6)
    wanted = np.mean(
        [
            0.7 * -math.log(softmax(z)[y]) + 0.3 * divergence(a, z, 2.0)
            for z, a, y in zip(logits, answers, labels.tolist(), strict=True)
        ]
    )
    given = torch.from_numpy(logits).float()
    assert float(losses(given, labels).mean() + lesson(inputs, given)) == pytest.approx(wanted, rel=1e-5)


# --- the valve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_records_reach_a_proxy_only_through_drawn_patients(
    study_with: Make, nobody_drawn: object, name: str, twin: bool
) -> None:
    """No patient drawn, same noise: hospitals with different records must send the same, round after round.

    Between the rounds a pupil sees all records, so this also proves that it never teaches; a twin teaches, so it too
    may depend on records only through drawn patients.
    """
    study = study_with(method=TWIN | {"twin": twin})
    one = hospital(study, name, nobody_drawn)
    two = hospital(study, name, nobody_drawn, records=study.test)
    for number in range(3):
        first, second = one.contribute(number).channels, two.contribute(number).channels
        assert set(first) == {"model-update"}
        np.testing.assert_array_equal(first["model-update"], second["model-update"])
        before = one.private
        for member in (one, two):
            member.absorb(number, {"model-update": 0.5 * first["model-update"]})
        assert not np.array_equal(one.private, before), "each round trains it"
        assert np.array_equal(one.private, two.private) is twin
    assert not np.array_equal(flatten(one.personalise()), flatten(two.personalise())), "at home without noise"


def test_without_a_twin_what_leaves_is_fedavgs_to_the_bit(study_with: Make) -> None:
    """So nothing of the private model is in it, whatever that has become."""
    ours, theirs = (
        {name: hospital(study, name) for name in NAMES}
        for study in (study_with(method={"name": "proxyfl"}), study_with(method={"name": "fedavg"}))
    )
    for number in range(3):
        for name in NAMES:
            one, two = ours[name].contribute(number), theirs[name].contribute(number)
            np.testing.assert_array_equal(one.channels["model-update"], two.channels["model-update"])
            assert one.proofs == two.proofs
            for member in (ours[name], theirs[name]):
                member.absorb(number, {"model-update": 0.5 * one.channels["model-update"]})


class OnePatient:
    """Draws the first patient, without noise."""

    name = "seeded-research"

    def normal(self, shape: Any, standard_deviation: float) -> Any:
        return np.zeros(shape)

    def poisson_mask(self, count: int, rate: float) -> Any:
        return np.arange(count) == 0

    def uniform(self, count: int) -> Any:
        return np.zeros(count)


def test_a_patients_gradient_is_clipped_in_both_models_together(study_with: Make) -> None:
    study = study_with(method=TWIN)
    section = study.plan.privacy["large"].model_copy(update={"clipping_norm": 1e-3, "steps": 1})
    plan = study.plan.model_copy(update={"privacy": dict.fromkeys(study.plan.privacy, section)})
    member = hospital(replace(study, plan=plan), "alpha", OnePatient())
    model = member.start(0)
    start, private = flatten(model), member.private
    event = member.private_steps(model, 0)
    assert event == planned_event(section)
    moved = [np.linalg.norm(flatten(model) - start), np.linalg.norm(member._twin_private - private)]
    assert min(moved) > 0
    step = plan.learning.private_learning_rate * 1e-3 / (section.sampling_rate * 40)
    assert math.hypot(*moved) == pytest.approx(step, rel=0.02), "float32 moves of a few millionths"


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", [False, True])
def test_the_same_seed_gives_the_same_study(
    study_with: Make, twin: bool, nothing_remembered: Callable[[], None]
) -> None:
    study = study_with(method=TWIN | {"twin": twin})
    one = run_study(study)
    nothing_remembered()
    two = run_study(study)
    for name in NAMES:
        assert np.array_equal(one[name].base, two[name].base)
        assert np.array_equal(flatten(one[name].personalise()), flatten(two[name].personalise()))


@pytest.mark.parametrize("personal_steps", [3, 8])
def test_steps_at_home_are_as_many_as_those_of_fedavg(
    study_with: Make, monkeypatch: pytest.MonkeyPatch, personal_steps: int
) -> None:
    taken: dict[str, int] = {}
    for method, module in (("proxyfl", proxyfl), ("prr", prr), ("fedavg", averaging)):
        real = module.home_steps

        def counted(model: Any, records: Any, steps: int, *rest: Any, real: Any = real, method: str = method) -> None:
            taken[f"{method} {len(records)}"] = taken.get(f"{method} {len(records)}", 0) + steps
            real(model, records, steps, *rest)

        monkeypatch.setattr(module, "home_steps", counted)
        for member in run_study(study_with(method={"name": method}, personal_steps=personal_steps)).values():
            member.personalise()
    for patients in (40, 20, 12):
        assert taken[f"proxyfl {patients}"] == taken[f"prr {patients}"] == taken[f"fedavg {patients}"] > 0


def test_a_private_model_has_the_network_of_its_tier_and_is_what_is_deployed(study_with: Make) -> None:
    study = study_with(method={"name": "proxyfl"})
    large, small = (hospital(study, name) for name in ("alpha", "beta"))
    assert isinstance(small, ProxyFl)
    assert len(large.private) > len(large.base) == len(small.private)
    for member in (large, small):
        np.testing.assert_allclose(flatten(member.personalise()), member.private, atol=1e-6)
        assert len(flatten(member.shared_model())) == len(small.base)
