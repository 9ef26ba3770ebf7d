"""PRR behind the valve: what leaves depends on public things and paid mechanisms, and only the box is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.learning.methods.prr import Prr, parts
from secure_fedhelp.learning.models import build, flatten, load_flat
from secure_fedhelp.privacy.channels import objection
from secure_fedhelp.privacy.mechanisms import Gaussian, planned_event, planned_events
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.research.catalog import prepare
from secure_fedhelp.research.plans import build_plan
from secure_fedhelp.study.channel import Vector, pack_channels, unpack_mean
from secure_fedhelp.study.methods import Prr as PrrOptions
from secure_fedhelp.study.methods import fitted
from secure_fedhelp.study.plan import parse_plan

Study = Any
NAMES = ("alpha", "beta", "gamma")
ALIGNED = {"name": "prr", "aligned_from": 1}
PLAIN = {"name": "prr", "det": False, "cpa": False}


def hospital(study: Study, name: str, noise: object | None = None, records: object | None = None) -> Prr:
    source = noise or SeededNoise(name.encode())
    mine = records or study.records[name]
    return Prr(Site(study.plan, name, mine, study.public, study.teacher, source))  # type: ignore[arg-type]


def run_round(
    study: Study, hospitals: dict[str, Any], number: int
) -> tuple[dict[str, PrivateOutput], dict[str, Vector]]:
    said = {name: h.contribute(number) for name, h in hospitals.items()}
    total = sum(pack_channels(study.plan, number, name, output.channels) for name, output in said.items())
    means = unpack_mean(study.plan, number, np.asarray(total), tuple(sorted(hospitals)))
    for h in hospitals.values():
        h.absorb(number, means)
    return said, means


# --- the valve --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "aggregation", "twin"),
    [
        ("alpha", "complex", False),
        ("alpha", "complex", True),
        ("beta", "phase", False),
        ("beta", "amplitude", True),
    ],
)
def test_records_reach_a_spectrum_only_through_drawn_patients(
    study_with: Callable[..., Study], nobody_drawn: object, name: str, aggregation: str, twin: bool
) -> None:
    """No patient drawn, same noise: hospitals with different records must send the same spectra, round after round.

    Between the rounds personal models see all records, so this also proves that a pupil never teaches. Counts and
    prototypes are about the records: they differ, and have noise of their own.
    """
    study = study_with(method=ALIGNED | {"twin": twin, "aggregation": aggregation}, public_steps=1)
    one = hospital(study, name, nobody_drawn)
    two = hospital(study, name, nobody_drawn, records=study.test)
    for number in range(3):
        first, second = one.contribute(number), two.contribute(number)
        np.testing.assert_array_equal(first.channels["spectrum"], second.channels["spectrum"])
        paid = {n for n in first.channels if not np.array_equal(first.channels[n], second.channels[n])}
        assert paid == {"class-counts", "prototypes"} & set(first.channels)
        means = {channel: 0.5 * values for channel, values in first.channels.items()}
        before = one.personal
        one.absorb(number, means)
        assert not np.array_equal(one.personal, before), "each round trains it, a twin's with its deputy"
        two.absorb(number, means)
        np.testing.assert_array_equal(one.deputy, two.deputy)
        assert np.array_equal(one.personal, two.personal) is twin, "a twin teaches, so it too is under noise"
        assert not np.array_equal(flatten(one.personalise()), flatten(two.personalise())), "at home without noise"


def test_each_answer_is_an_event_of_its_own_after_the_training(study_with: Callable[..., Study]) -> None:
    study = study_with(method=ALIGNED)
    member = hospital(study, "beta")
    kinds = []
    for number in range(3):
        output = member.contribute(number)
        assert output.events == planned_events(study.plan, "beta", number)
        assert output.events[0] == planned_event(study.plan.privacy["small"])
        kinds.append({name: proof.mechanism for name, proof in output.proofs.items()})
        for name, proof in output.proofs.items():
            assert objection(study.plan, number, name, proof) is None
        assert sum(isinstance(event, Gaussian) for event in output.events) == len(kinds[-1]) - 1
        member.absorb(number, dict(output.channels))
    answers = {"spectrum": "dp-sgd", "prototypes": "gaussian"}
    assert kinds == [answers | {"class-counts": "gaussian"}, answers, answers], "counts are asked for once"


def test_the_losses_constants_follow_from_what_was_released(study_with: Callable[..., Study]) -> None:
    """Recomputed from the hospital's own uploads and the cohort's sums alone, with loops."""
    study = study_with(method=ALIGNED)
    hospitals = {name: hospital(study, name) for name in NAMES}
    said, means = run_round(study, hospitals, 0)
    counts = [max(float(x), 1.0) for x in means["class-counts"]]  # the bound is wide, so nothing was scaled
    for name, member in hospitals.items():
        loss: Any = member.losses(1)
        own, cohort = (np.split(v["prototypes"], 2) for v in (said[name].channels, means))
        for c in (0, 1):
            cosine = float(own[c] @ cohort[c]) / math.sqrt(float(own[c] @ own[c]) * float(cohort[c] @ cohort[c]))
            assert float(loss.gamma[c]) == pytest.approx((1 + 3) / (cosine + 3), rel=1e-5)
        ratio = min(counts) / max(counts)
        assert sorted(loss.log_seesaw.exp().numpy().ravel()) == pytest.approx([ratio**0.8, 1, 1, 1], rel=1e-5)
    below = hospital(study, "beta")
    below.absorb(0, means | {"class-counts": np.array([-3.0, 8.0])})
    noisy: Any = below.losses(1)
    assert noisy.log_seesaw.exp().numpy().min() == pytest.approx((1 / 8) ** 0.8), (
        "a sum below one patient counts as one"
    )
    restored = hospital(study, "beta")
    restored.load(hospitals["beta"].save())
    again: Any = restored.losses(1)
    assert torch.equal(again.gamma, hospitals["beta"].losses(1).gamma)  # type: ignore[attr-defined]
    before: Any = hospitals["beta"].losses(0)
    assert before.gamma.tolist() == [1, 1], "before aligned_from no class weighs more"


def test_prototypes_are_of_the_deputy_that_was_trained_under_noise(
    study_with: Callable[..., Study], nobody_drawn: object
) -> None:
    study = study_with(method=ALIGNED)
    member, records = hospital(study, "beta", nobody_drawn), study.records["beta"]
    said = member.contribute(0).channels
    assert member._trained is not None
    model = build("mlp-6", (5,), 2, seed=0)
    load_flat(model, member._trained.deputy)
    features = predict(model.extractor, records.inputs)
    channel, sums = study.plan.channel("prototypes"), np.zeros((2, 6))
    for f, y in zip(features, records.labels, strict=True):
        sums[y] += f * min(1.0, channel.sensitivity / math.sqrt(sum(x * x for x in f)))
    noise = 0.01 * channel.noise_multiplier * channel.sensitivity
    scale = min(1.0, channel.bound / (2 * 40 * channel.sensitivity))  # 40: the largest nominal number of patients
    assert scale < 1
    np.testing.assert_allclose(said["prototypes"], (sums.ravel() + noise) * scale, atol=1e-6)


def test_a_patient_with_many_records_counts_once(study_with: Callable[..., Study], nobody_drawn: object) -> None:
    study = study_with(method=ALIGNED)
    records = study.records["beta"]
    again = records.take(list(range(len(records))) + [0] * 50)
    one, two = (hospital(study, "beta", nobody_drawn, records=r).contribute(0).channels for r in (records, again))
    for name in ("class-counts", "prototypes"):
        np.testing.assert_array_equal(one[name], two[name])


def test_gaussian_prototypes_are_drawn_as_far_off_as_their_noise(study_with: Callable[..., Study]) -> None:
    study = study_with(method=ALIGNED | {"gaussian_prototypes": True})
    hospitals = {name: hospital(study, name) for name in NAMES}
    _, means = run_round(study, hospitals, 0)
    member, channel = hospitals["beta"], study.plan.channel("prototypes")
    scale = channel.bound / (2 * 40 * channel.sensitivity)
    counts = np.maximum(means["class-counts"], 1.0)[:, None]
    deviation = channel.noise_multiplier * channel.sensitivity * math.sqrt(3) / counts
    drawn = np.stack([member._compared_with(number) for number in range(400)])
    np.testing.assert_allclose(drawn.std(axis=0) / deviation, 1, atol=0.15)
    around = means["prototypes"].reshape(2, 6) / scale / counts
    assert (np.abs(drawn.mean(axis=0) - around) < 5 * deviation / 20).all()


# --- what is shared ---------------------------------------------------------------------------------------------------


def test_lengths_grow_with_the_band_and_nothing_unused_is_paid_for(study_with: Callable[..., Study]) -> None:
    plan = study_with(method={"name": "prr", "aligned_from": 2}).plan
    found = Prr.lengths(plan)
    spectrum = found["spectrum"]
    assert isinstance(spectrum, tuple)
    # mlp-6 on 5 features: (6, 5) in boxes of floor(n L / 2); 6 biases and two heads of 2 (6 + 1) values as they are.
    assert spectrum == (5 * 3 + 34, 5 * 5 + 34, 5 * 5 + 34)
    assert found["class-counts"] == (2, 0, 0)
    assert found["prototypes"] == (0, 12, 12)
    for never in (3, 15):
        plan = study_with(method={"name": "prr", "aligned_from": never}).plan
        assert Prr.lengths(plan).keys() == {"spectrum", "class-counts"}, "a study of three rounds ends before"
    assert Prr.lengths(study_with(method=PLAIN).plan).keys() == {"spectrum"}


@pytest.mark.parametrize(("rounds", "aligned"), [(50, 15), (20, 6), (8, 3), (5, 2), (3, 1), (2, 1)])
def test_prototypes_are_heard_in_a_short_study_too(study_with: Callable[..., Study], rounds: int, aligned: int) -> None:
    """The paper's fifteen rounds are of fifty: in a study of eight nobody would ever have compared a feature."""
    values = study_with(method=PLAIN).plan.model_dump(mode="json")
    values["study"]["rounds"] = rounds
    values["channels"] = [{"name": "model-update", "length": 1, "bound": 1.0}]
    plan = parse_plan(values | {"method": {"name": "prr"}})
    assert plan.options(PrrOptions).aligned_from == aligned, "the plan says the number"
    heard = Prr.lengths(plan)["prototypes"]
    assert isinstance(heard, tuple)
    assert [length > 0 for length in heard] == [number >= aligned - 1 for number in range(rounds)]
    assert plan.hash == parse_plan(plan.model_dump(mode="json")).hash


def test_a_number_that_is_said_stays_and_one_that_nothing_reads_is_always_the_same() -> None:
    eight = build_plan("breast-cancer", prepare("breast-cancer", None, 1), None, None, 1, method=PrrOptions())
    assert eight.study.rounds == 8
    assert eight.options(PrrOptions).aligned_from == 3
    assert "prototypes" in {channel.name for channel in eight.channels}
    late = fitted(PrrOptions(aligned_from=40), rounds=8, classes=2)
    assert isinstance(late, PrrOptions)
    assert late.aligned_from == 40
    kept = PrrOptions(cpa=False, aligned_from=15)
    assert fitted(PrrOptions(cpa=False), rounds=8, classes=2) == kept == fitted(kept, rounds=8, classes=2)
    assert fitted(PrrOptions.model_validate({"cpa": 0}), rounds=8, classes=2) == kept, "one meaning, one plan"


def test_with_the_whole_band_it_is_fedavg(study_with: Callable[..., Study]) -> None:
    """Same noise, same coins: switched off ingredient by ingredient, what remains is the mean update."""
    ours = study_with(method=PLAIN | {"band_start": 1.0, "band_end": 1.0})
    theirs = study_with(method={"name": "fedavg"})
    one = {name: hospital(ours, name) for name in NAMES}
    two: dict[str, Averaging] = {}
    for name in NAMES:
        made = make_method(
            Site(theirs.plan, name, theirs.records[name], theirs.public, theirs.teacher, SeededNoise(name.encode()))
        )
        assert isinstance(made, Averaging)
        two[name] = made
    for number in range(3):
        run_round(ours, one, number)
        run_round(theirs, two, number)
        for name in NAMES:
            np.testing.assert_allclose(one[name].deputy, two[name].base, atol=1e-5)
            np.testing.assert_allclose(one[name].base, two[name].base, atol=1e-5)


def test_deputies_agree_in_the_band_and_nowhere_else(study_with: Callable[..., Study]) -> None:
    study = study_with(method={"name": "prr"})
    hospitals = {name: hospital(study, name) for name in NAMES}
    for number, width in enumerate((0.7, 0.825, 0.95)):
        run_round(study, hospitals, number)
        for member in hospitals.values():
            np.testing.assert_array_equal(member.base, hospitals["beta"].base)
            within = member.fourier.pack(member.deputy, member.base, width)
            np.testing.assert_allclose(within, 0, atol=1e-9)
            assert member.fourier.pack(member.deputy, member.base, 1.0).any()
    assert not np.allclose(hospitals["beta"].deputy, hospitals["gamma"].deputy, atol=1e-3)


def test_a_hospital_that_sat_out_or_crashed_takes_the_band_and_keeps_its_own(study_with: Callable[..., Study]) -> None:
    study = study_with(method=ALIGNED)
    hospitals = {name: hospital(study, name) for name in NAMES}
    late, crashed = hospital(study, "gamma"), hospital(study, "beta")
    before = late.deputy
    checkpoint = crashed.save()
    crashed.contribute(0)
    crashed = hospital(study, "beta")
    crashed.load(checkpoint)
    _, means = run_round(study, hospitals, 0)
    for member in (late, crashed):
        member.absorb(0, means)
        np.testing.assert_array_equal(member.base, hospitals["beta"].base)
        np.testing.assert_allclose(member.fourier.pack(member.deputy, member.base, 0.7), 0, atol=1e-9)
        assert member.own_prototypes is None
        aligned: Any = member.losses(1)
        assert aligned.gamma.tolist() == [1, 1], "nothing of its own to compare"
    assert not np.allclose(late.deputy, before, atol=1e-3)
    undone = late.fourier.recombine(late.deputy, before, np.zeros(len(means["spectrum"])), 0.7)
    np.testing.assert_allclose(undone, before, atol=1e-9)  # outside of the band nothing has changed


# --- the personal model -----------------------------------------------------------------------------------------------


def test_a_pupil_learns_from_the_deputy_only_once_it_has_recovered(study_with: Callable[..., Study]) -> None:
    def personal(**options: Any) -> NDArray[np.float64]:
        study = study_with(method={"name": "prr", "cpa": False} | options, personal_steps=24)
        member = hospital(study, "beta")
        spectrum = member.contribute(0).channels["spectrum"]
        member.absorb(0, {"spectrum": spectrum})
        return member.personal

    alone, first_epoch_only = personal(det=False, epochs=3), personal(epochs=1)
    taught = personal(epochs=3, recover=0.0, exchange=0.0)
    assert not np.array_equal(taught, alone), "exchange and sublimate: the deputy teaches"
    np.testing.assert_array_equal(first_epoch_only, personal(det=False, epochs=1))


def test_a_large_hospitals_personal_model_is_the_plans_large_network(study_with: Callable[..., Study]) -> None:
    study = study_with(method={"name": "prr"})
    large, small = hospital(study, "alpha"), hospital(study, "beta")
    assert len(large.personal) > len(large.deputy) == len(small.personal)
    assert len(flatten(large.personalise())) == len(large.personal)
    assert len(flatten(large.shared_model())) == len(large.deputy)


@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "no teacher"])
def test_an_unlabelled_public_set_is_scored_by_the_teacher_or_not_at_all(
    study_with: Callable[..., Study], taught: bool
) -> None:
    study = study_with(labelled=False, method={"name": "prr"}, personal_steps=24)
    member = hospital(study, "beta")
    if not taught:
        member.site = replace(member.site, teacher=None)
    said = member.contribute(0)
    member.absorb(0, dict(said.channels))
    assert np.isfinite(member.personal).all()


def test_normalisation_layers_stay_and_heads_travel_whole() -> None:
    """The tiny study has none, so this one is about which parameters are which."""
    model = build("cnn-4-8", (1, 8, 8), 2, seed=0)
    kinds = dict(zip([name for name, _ in model.named_parameters()], parts(model), strict=True))
    assert [part.shape for part in kinds.values()] == [p.shape for p in model.parameters()], "the order of flatten"
    assert {name for name, part in kinds.items() if part.kind == "local"} == {
        f"extractor.{layer}.{what}" for layer in (1, 4) for what in ("weight", "bias")
    }
    assert {name for name, part in kinds.items() if part.kind == "spectrum"} == {
        "extractor.0.weight",
        "extractor.3.weight",
    }


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "update", "reason"),
    [
        ("spectrum", {"combine": "sum"}, "spectrum is dp-sgd and sum in the plan"),
        ("spectrum", {"mechanism": "post-processing"}, "spectrum is post-processing"),
        ("prototypes", {"combine": "weighted-mean"}, "prototypes is gaussian and weighted-mean"),
        ("class-counts", {"sensitivity": 0.5}, "a patient counts once"),
    ],
)
def test_channels_declared_for_something_else_are_refused_before_anything_is_spent(
    study_with: Callable[..., Study], name: str, update: dict[str, Any], reason: str
) -> None:
    study = study_with(method=ALIGNED)
    channels = tuple(c.model_copy(update=update) if c.name == name else c for c in study.plan.channels)
    with pytest.raises(InvalidPlan, match=reason):
        hospital(replace(study, plan=study.plan.model_copy(update={"channels": channels})), "beta")


@pytest.mark.parametrize(
    "options",
    [
        {"band_start": 0.8, "band_end": 0.7},
        {"recover": 0.9, "exchange": 0.8},
        {"twin": True, "det": False},
        {"tau": 0.9},
        {"aggregation": "median"},
        {"band_end": 1.2},
    ],
)
def test_options_that_contradict_are_refused(study_with: Callable[..., Study], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan, match="method"):
        study_with(method={"name": "prr"} | options)
