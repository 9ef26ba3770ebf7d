"""Every way round the release gate fails by name, and the budget ends in the round it should."""

from __future__ import annotations

import copy
import errno
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledgers import DATASET, NOW, fixed_key, open_ledger, proofs
from plans import example_plan

from secure_fedhelp.errors import BudgetExhausted, InvalidContribution, NotReleasable, StorageError
from secure_fedhelp.privacy.accountant import epsilon, noise_for_budget
from secure_fedhelp.privacy.entries import Proof, Release, Reservation, Void
from secure_fedhelp.privacy.ledger import Ledger, read_ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, paid, planned_events
from secure_fedhelp.privacy.release import Budget, PrivateOutput, Released, ReleaseGate, require_released
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.channel import Vector, pack_channels
from secure_fedhelp.study.plan import StudyPlan, parse_plan

PLAN = example_plan()
BUDGET = Budget(DATASET)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.jsonl") as opened:
        yield opened


@pytest.fixture
def gate(ledger: Ledger) -> ReleaseGate:
    return ReleaseGate(ledger, PLAN, "alpha", BUDGET)


def values(seed: int = 0) -> dict[str, Vector]:
    generator = np.random.default_rng(seed)
    return {"model-update": generator.normal(0, 1, 10), "public-logits": generator.normal(0, 5, 4)}


def output(plan: StudyPlan = PLAN, **changes: Any) -> PrivateOutput:
    made = PrivateOutput(
        channels=values(),
        events=planned_events(plan, "alpha", 0),
        proofs=proofs(plan),
        noise_source="system",
    )
    return replace(made, **changes)


# -- what comes out --------------------------------------------------------------------------------------------------


def test_a_release_is_clipped_paid_for_and_ready_to_pack(gate: ReleaseGate, ledger: Ledger) -> None:
    released = gate.release(2, output())
    assert require_released(released) is released
    for channel in PLAN.channels:
        raw, kept = values()[channel.name], released.channels[channel.name]
        assert kept.dtype == np.float64
        assert np.array_equal(kept, np.clip(raw, -channel.bound, channel.bound))
        assert released.clipped[channel.name] == int((np.abs(raw) > channel.bound).sum())
        first = ledger.entries[0]
        assert isinstance(first, Release)
        assert first.values()[channel.name] == sha256_hex(kept.astype("<f8").tobytes())
    assert sum(released.clipped.values()) > 0
    assert pack_channels(PLAN, 2, "alpha", released.channels).shape == (14,)
    assert (ledger.count, released.entry, released.index) == (1, ledger.entries[0], 0)
    entry = released.entry
    assert (entry.study, entry.round, entry.hospital) == (PLAN.hash, 2, "alpha")
    assert (entry.delta, entry.events, entry.dataset) == (1e-4, output().events, DATASET)
    assert [(c.name, c.mechanism, c.derived_from) for c in entry.channels] == [
        ("model-update", "dp-sgd", ("event:0", "public:transcript")),
        ("public-logits", "post-processing", ("event:0", "public:public-set")),
    ]


# -- ways round ------------------------------------------------------------------------------------------------------


def test_nobody_else_makes_a_released_value(gate: ReleaseGate) -> None:
    entry = gate.release(0, output()).entry
    for token in (None, object(), "gate", True):
        with pytest.raises(NotReleasable):
            Released(token, entry, {"model-update": bytes(80)}, {})


def test_there_are_no_subclasses() -> None:
    with pytest.raises(NotReleasable):
        type("Mine", (Released,), {})


def test_a_released_value_cannot_be_copied_stored_or_changed(gate: ReleaseGate) -> None:
    released = gate.release(0, output())
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(NotReleasable):
            attempt(released)
    for name in ("channels", "_channels", "entry", "anything"):
        with pytest.raises(NotReleasable):
            setattr(released, name, {})
    with pytest.raises(NotReleasable):
        del released._channels
    with pytest.raises(TypeError):
        released.channels["model-update"] = np.zeros(10)  # type: ignore[index]
    with pytest.raises(TypeError):
        released.clipped["model-update"] = 0  # type: ignore[index]


def test_its_arrays_cannot_be_written_not_even_after_asking(gate: ReleaseGate) -> None:
    array = gate.release(0, output()).channels["model-update"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        array += 1.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        array.view(np.uint8)[0] = 1


def test_what_was_handed_in_can_change_afterwards_without_effect(gate: ReleaseGate) -> None:
    handed = values()
    released = gate.release(0, output(channels=handed))
    before = released.channels["model-update"].copy()
    handed["model-update"][:] = 7.0
    assert np.array_equal(released.channels["model-update"], before)


def test_an_object_the_gate_did_not_issue_is_refused(gate: ReleaseGate) -> None:
    hollow = object.__new__(Released)
    real = gate.release(0, output())
    for name in ("_channels", "_clipped", "_entry"):
        object.__setattr__(hollow, name, getattr(real, name))
    for value in (hollow, values(), None, output(), object.__new__(Released)):
        with pytest.raises(NotReleasable, match="did not issue"):
            require_released(value)


@pytest.mark.parametrize(
    "change",
    [{"steps": 4}, {"steps": 6}, {"noise_multiplier": 0.99}, {"sampling_rate": 0.06}, {"clipping_norm": 1.1}],
)
def test_the_executed_event_must_be_the_plans(change: dict[str, Any], gate: ReleaseGate, ledger: Ledger) -> None:
    event = DpSgd.model_validate(output().events[0].model_dump() | change)
    for events in ((event,), (), (*output().events, event), output().events * 2):
        with pytest.raises(NotReleasable, match="executed"):
            gate.release(0, output(events=events))
    assert ledger.count == 0


@pytest.mark.parametrize(
    "channels",
    [
        {},
        {"model-update": np.zeros(10)},
        {**values(), "class-counts": np.zeros(2)},
        {"Model-Update": np.zeros(10), "public-logits": np.zeros(4)},
    ],
)
def test_channels_must_be_the_plans(channels: dict[str, Vector], gate: ReleaseGate, ledger: Ledger) -> None:
    with pytest.raises(NotReleasable, match="channels"):
        gate.release(0, output(channels=channels))
    assert ledger.count == 0


@pytest.mark.parametrize(
    "update",
    [
        np.full(10, np.nan),
        np.full(10, np.inf),
        np.append(np.zeros(9), -np.inf),
        np.zeros(9),
        np.zeros(11),
        np.zeros((10, 1)),
        np.float64(0),
    ],
)
def test_values_must_be_finite_and_of_the_plans_length(update: Any, gate: ReleaseGate, ledger: Ledger) -> None:
    with pytest.raises(InvalidContribution):
        gate.release(0, output(channels={**values(), "model-update": update}))
    assert ledger.count == 0


HEAD = "entry:" + "a" * 64


@pytest.mark.parametrize(
    ("channel", "proof", "reason"),
    [
        ("model-update", Proof.of("post-processing", "event:0"), "not declared"),  # a model trained without noise
        ("model-update", Proof.of("gaussian", "event:0"), "not declared"),
        ("public-logits", Proof.of("dp-sgd", "event:0"), "not declared"),
        ("public-logits", Proof.of("pooled-exact", "event:0"), "not declared"),
        ("model-update", Proof.of("dp-sgd", "event:1"), "not executed"),
        ("public-logits", Proof.of("post-processing", "event:7"), "not executed"),
        ("public-logits", Proof.of("post-processing", HEAD), "no paid release"),
        ("model-update", Proof.of("public", "public:plan"), "called public"),
        ("public-logits", Proof.of("public", "public:public-set"), "called public"),
        ("model-update", "dp-sgd", "has no proof, but str"),
        ("model-update", None, "has no proof, but NoneType"),
    ],
)
def test_a_channel_needs_a_proof_of_the_mechanism_it_is_declared_for(
    channel: str, proof: Any, reason: str, gate: ReleaseGate, ledger: Ledger
) -> None:
    with pytest.raises(NotReleasable, match=reason):
        gate.release(0, output(proofs={**proofs(PLAN), channel: proof}))
    assert ledger.count == 0


@pytest.mark.parametrize("names", [(), ("model-update",), ("model-update", "public-logits", "labels")])
def test_every_channel_has_a_proof_and_nothing_else_has(names: tuple[str, ...], gate: ReleaseGate) -> None:
    given = {name: proofs(PLAN).get(name, Proof.of("public", "public:plan")) for name in names}
    with pytest.raises(NotReleasable, match="proofs"):
        gate.release(0, output(proofs=given))


def test_what_derives_from_an_earlier_entry_names_a_line_of_this_ledger(gate: ReleaseGate, ledger: Ledger) -> None:
    gate.release(0, output())
    later = {**proofs(PLAN), "public-logits": Proof.of("post-processing", f"entry:{ledger.head}")}
    entry = gate.release(1, output(proofs=later)).entry
    assert entry.channels[1].derived_from == (f"entry:{ledger.entries[1].previous}",)


def test_what_carries_an_earlier_rounds_training_names_its_release(gate: ReleaseGate, ledger: Ledger) -> None:
    gate.release(0, output())
    first = ledger.head
    entry = gate.release(2, output(carried={"public-logits": 0})).entry
    named = {channel.name: channel.derived_from for channel in entry.channels}
    assert named["public-logits"] == (f"entry:{first}", "event:0", "public:public-set")
    assert named["model-update"] == ("event:0", "public:transcript")
    second = ledger.head
    again = gate.release(3, output(carried={"public-logits": 2})).entry
    assert f"entry:{second}" in again.channels[1].derived_from, "and that one names the first"


@pytest.mark.parametrize(
    ("carried", "reason"),
    [
        ({"public-logits": 1}, "round 2, which this ledger has not paid for"),
        ({"public-logits": 2}, "round 3, which this ledger has not paid for"),
        ({"model-update": 0}, "only post-processing can"),
        ({"labels": 0}, "only post-processing can"),
    ],
)
def test_what_was_never_paid_for_cannot_be_carried(
    carried: dict[str, int], reason: str, gate: ReleaseGate, ledger: Ledger
) -> None:
    gate.release(0, output())
    before = ledger.count
    with pytest.raises(NotReleasable, match=reason):
        gate.release(2, output(carried=carried))
    assert ledger.count == before


# -- what is counted about records set aside ---------------------------------------------------------------------------


def measuring_plan(**metrics: Any) -> StudyPlan:
    """Two rounds, of which the second measures."""
    plan = example_plan()
    channels = [c.model_dump() for c in plan.channels] + [{"name": "metrics", "length": 12, "bound": 1.0}]
    return example_plan(study__rounds=2, metrics={"bins": 2, **metrics}, channels=channels)


def measured(plan: StudyPlan, counts: Vector, **changes: Any) -> PrivateOutput:
    event = planned_events(plan, "alpha", 1)[0]
    made = PrivateOutput(
        channels={"metrics": counts},
        events=(event,),
        proofs={"metrics": Proof.of(event.kind, "event:0")},
        noise_source="system",
    )
    return replace(made, **changes)


def test_noised_counts_are_paid_for_and_exact_ones_are_written_down(tmp_path: Path) -> None:
    plan = measuring_plan(release="noised", noise_multiplier=5.0)
    with open_ledger(tmp_path / "noised.jsonl") as ledger:
        gate = ReleaseGate(ledger, plan, "alpha", BUDGET)
        gate.release(1, measured(plan, np.full(12, 0.25)))
        assert ledger.events() == [Gaussian(noise_multiplier=5.0, sensitivity=3**0.5)]
        assert 0 < gate.epsilon_spent() == epsilon(ledger.events(), 1e-4)
    plan = measuring_plan(release="pooled")
    with open_ledger(tmp_path / "pooled.jsonl") as ledger:
        gate = ReleaseGate(ledger, plan, "alpha", BUDGET)
        entry = gate.release(1, measured(plan, np.full(12, 0.25))).entry
        assert (ledger.events(), gate.epsilon_spent()) == ([], 0.0)
        assert entry.events == (PooledExact(smallest_cohort=plan.aggregation.minimum_cohort),)


def test_exact_counts_cannot_be_post_processed_into_something_that_leaves(ledger: Ledger) -> None:
    plan, logits = measuring_plan(release="pooled"), np.array([3.0, 1.0, 4.0, 1.0])
    counts = measured(plan, np.full(12, 0.25))
    gate = ReleaseGate(ledger, plan, "alpha", BUDGET)
    for source in ("event:0", f"entry:{ledger.head}"):
        leaky = replace(
            counts,
            channels={**counts.channels, "public-logits": logits},
            proofs={**counts.proofs, "public-logits": Proof.of("post-processing", source)},
        )
        with pytest.raises(NotReleasable):
            gate.release(1, leaky)
    assert ledger.count == 0
    gate.release(1, counts)
    later = {**proofs(plan), "public-logits": Proof.of("post-processing", f"entry:{ledger.head}")}
    with pytest.raises(NotReleasable, match="no paid release"):  # nor later, nor of a reservation or a void
        gate.release(0, output(plan, proofs=later))


def test_exact_counts_about_the_same_patients_have_a_number(ledger: Ledger) -> None:
    """Between two exact sums nothing hides a patient who came or went, and no epsilon would say so."""
    for name, allowed in (("first", True), ("second", False)):
        values_ = measuring_plan(release="pooled").model_dump(mode="json")
        values_["study"]["name"] = name
        plan = parse_plan(values_)
        gate = ReleaseGate(ledger, plan, "alpha", BUDGET)
        if allowed:
            gate.release(1, measured(plan, np.full(12, 0.25)))
            continue
        with pytest.raises(BudgetExhausted, match="exact_releases is 1"):
            gate.reserve(1)
        ReleaseGate(ledger, plan, "alpha", replace(BUDGET, exact_releases=2)).reserve(1)


def test_a_round_that_measures_sends_no_model_and_one_that_trains_no_counts(ledger: Ledger) -> None:
    plan = measuring_plan(release="noised", noise_multiplier=5.0)
    gate, counts = ReleaseGate(ledger, plan, "alpha", BUDGET), np.full(12, 0.25)
    leaky = {**measured(plan, counts).channels, "model-update": np.full(10, 1e-9)}
    with pytest.raises(NotReleasable, match=r"the plan says \['metrics'\]"):
        gate.release(1, measured(plan, counts, channels=leaky))
    with pytest.raises(NotReleasable, match="executed"):
        gate.release(0, measured(plan, counts))
    training = output(plan, channels={**values(), "metrics": counts})
    with pytest.raises(NotReleasable, match=r"the plan says \['model-update', 'public-logits'\]"):
        gate.release(0, training)
    assert ledger.count == 0


def answering_plan(**changes: Any) -> StudyPlan:
    """Two answers with noise of their own beside each round's training; the second is silent in the first round."""
    answer = {"bound": 1.0, "mechanism": "gaussian", "combine": "sum", "sensitivity": 2.0, "noise_multiplier": 5.0}
    channels = [c.model_dump() for c in example_plan().channels]
    channels += [
        {"name": "class-counts", "length": 2, **answer},
        {"name": "prototypes", "length": (0, 6, 6, 6), **answer},
    ]
    return example_plan(channels=channels, **changes)


def answered(plan: StudyPlan, number: int, **sources: str) -> PrivateOutput:
    own = {"class-counts": "event:1", "prototypes": "event:2"} | {k.replace("_", "-"): v for k, v in sources.items()}
    said = {name: Proof.of("gaussian", source) for name, source in own.items()}
    sizes = plan.lengths(number)
    return PrivateOutput(
        channels={**values(), **{name: np.full(sizes[name], 0.5) for name in own if name in sizes}},
        events=planned_events(plan, "alpha", number),
        proofs={name: (proofs(PLAN) | said)[name] for name in sizes},
        noise_source="system",
    )


def test_noise_pays_for_one_answer_and_not_for_two(ledger: Ledger) -> None:
    plan = answering_plan()
    gate = ReleaseGate(ledger, plan, "alpha", BUDGET)
    for sources in ({"prototypes": "event:1"}, {"class_counts": "event:2"}):
        with pytest.raises(NotReleasable, match="its noise is event"):
            gate.release(1, answered(plan, 1, **sources))
    assert ledger.count == 0
    gate.release(0, answered(plan, 0))
    gate.release(1, answered(plan, 1))
    noise = Gaussian(noise_multiplier=5.0, sensitivity=2.0)
    training = planned_events(PLAN, "alpha", 0)[0]
    assert ledger.events() == [training, noise, training, noise, noise]
    assert gate.epsilon_spent() == epsilon([training, noise, training, noise, noise], 1e-4)


def test_noise_from_a_seed_protects_nobody_and_stays_in_research(ledger: Ledger) -> None:
    seeded = output(noise_source="seeded-research")
    with pytest.raises(NotReleasable, match="seeded-research"):
        ReleaseGate(ledger, PLAN, "alpha", BUDGET).release(0, seeded)
    research = example_plan(study__mode="research")
    entry = ReleaseGate(ledger, research, "alpha", BUDGET).release(0, seeded).entry
    assert entry.noise_source == "seeded-research"
    with pytest.raises(NotReleasable, match="torch"):
        ReleaseGate(ledger, research, "alpha", BUDGET).release(1, output(noise_source="torch"))


def test_another_hospitals_ledger_cannot_pay(ledger: Ledger) -> None:
    with pytest.raises(NotReleasable, match="beta"):
        ReleaseGate(ledger, PLAN, "beta", BUDGET)


# -- order: spool, spend, release ------------------------------------------------------------------------------------


def test_values_are_spooled_before_anything_is_spent(gate: ReleaseGate, ledger: Ledger) -> None:
    seen: list[int] = []

    def spool(channels: Any) -> None:
        assert float(np.abs(channels["model-update"]).max()) <= 1.0
        with pytest.raises(TypeError):
            channels["model-update"] = np.zeros(10)
        seen.append(ledger.count)

    gate.release(0, output(), before_spending=spool)
    assert seen == [0]
    assert ledger.count == 1


def test_a_spool_that_fails_spends_nothing(gate: ReleaseGate, ledger: Ledger) -> None:
    def full(channels: Any) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError):
        gate.release(0, output(), before_spending=full)
    assert (ledger.count, gate.epsilon_spent()) == (0, 0.0)


def test_a_ledger_that_cannot_be_written_releases_nothing(
    gate: ReleaseGate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space"):
            gate.release(0, output())
    assert ledger.count == 0
    assert gate.release(0, output()).index == 0


def test_the_entry_is_on_the_disk_when_the_value_comes_out(gate: ReleaseGate, tmp_path: Path) -> None:
    released = gate.release(0, output())
    assert read_ledger(tmp_path / "ledger.jsonl", fixed_key().public_hex) == [released.entry]


def test_after_a_crash_the_same_values_come_out_without_paying_twice(tmp_path: Path) -> None:
    spooled: dict[str, Vector] = {}
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        first = ReleaseGate(ledger, PLAN, "alpha", BUDGET).release(1, output(), before_spending=spooled.update)
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        gate = ReleaseGate(ledger, PLAN, "alpha", BUDGET)
        again = gate.recover(1, spooled)
        assert again is not None
        assert require_released(again).entry == first.entry
        assert all(np.array_equal(again.channels[n], first.channels[n]) for n in first.channels)
        assert ledger.count == 1


def test_whoever_watches_the_ledger_hears_of_a_release_before_it_comes_out(ledger: Ledger) -> None:
    """After a crash the book beside the ledger has to miss what a ledger has lost."""
    heard: list[int] = []
    gate = ReleaseGate(ledger, PLAN, "alpha", BUDGET, spent=lambda: heard.append(ledger.count))
    gate.reserve(0)
    assert heard == []
    gate.release(0, output())
    gate.spend_without_release(1, "system")
    assert heard == [2, 3]


def test_only_what_was_paid_for_is_recovered(gate: ReleaseGate, ledger: Ledger) -> None:
    gate.release(1, output())
    assert gate.recover(1, values()) is not None, "clipping again changes nothing"
    assert gate.recover(1, values(seed=1)) is None
    assert gate.recover(0, values()) is None
    assert gate.recover(1, {"model-update": values()["model-update"]}) is None
    nearly = values()
    nearly["public-logits"][0] = np.nextafter(nearly["public-logits"][0], 0.0)
    assert gate.recover(1, nearly) is None
    other = ReleaseGate(ledger, example_plan(study__name="another"), "alpha", BUDGET)
    assert other.recover(1, values()) is None
    with pytest.raises(InvalidContribution):
        gate.recover(1, {**values(), "model-update": np.full(10, np.nan)})


# -- the budget ------------------------------------------------------------------------------------------------------


def budget_plan(rounds: int) -> StudyPlan:
    """A plan whose noise fits exactly ``rounds`` rounds of alpha's tier."""
    noise = noise_for_budget(1.5, 1e-4, 0.05, 5 * rounds)
    return example_plan(privacy__large__noise_multiplier=noise, privacy__large__epsilon=1.5)


def test_a_plan_made_to_fit_fits_to_its_last_round_and_not_one_more(ledger: Ledger) -> None:
    plan = budget_plan(4)
    gate, spent = ReleaseGate(ledger, plan, "alpha", BUDGET), 0.0
    for number in range(4):
        promised = gate.check_affordable(number)
        gate.release(number, output(plan))
        assert spent < gate.epsilon_spent() == promised <= 1.5
        spent = promised
    assert spent > 1.49
    with pytest.raises(BudgetExhausted, match=r"round 5 .*budget is 1\.5 at delta 0\.0001"):
        gate.check_affordable(4)
    with pytest.raises(BudgetExhausted):
        gate.release(4, output(plan))
    assert ledger.count == 4


def test_a_crash_after_spending_counts(tmp_path: Path) -> None:
    """Trained and paid for twice, because the first values were lost: the study ends a round earlier."""
    plan = budget_plan(4)
    for number in (0, 0, 1, 2):
        with open_ledger(tmp_path / "ledger.jsonl") as ledger:
            ReleaseGate(ledger, plan, "alpha", BUDGET).release(number, output(plan))
    with open_ledger(tmp_path / "ledger.jsonl") as ledger, pytest.raises(BudgetExhausted):
        ReleaseGate(ledger, plan, "alpha", BUDGET).check_affordable(3)


def test_an_earlier_study_on_the_same_patients_counts(ledger: Ledger) -> None:
    plan = budget_plan(4)
    earlier = example_plan(study__name="earlier")
    ReleaseGate(ledger, earlier, "alpha", BUDGET).release(0, output(earlier))
    gate = ReleaseGate(ledger, plan, "alpha", Budget(DATASET, 1.5))
    assert gate.lifetime_spent() == epsilon(paid(output(earlier).events), 1e-4) > gate.epsilon_spent() == 0
    for number in range(2):
        gate.release(number, output(plan))
    with pytest.raises(BudgetExhausted, match=r"over all studies .*lifetime_epsilon is 1\.5"):
        gate.release(2, output(plan))  # the third of four rounds that would fit on their own
    assert len(ledger.events(plan.hash)) == ledger.count - 1 == 2


def test_an_earlier_study_on_other_patients_does_not(ledger: Ledger) -> None:
    plan, other = budget_plan(4), example_plan(study__name="other")
    ReleaseGate(ledger, other, "alpha", Budget("e" * 64)).release(0, output(other))
    gate = ReleaseGate(ledger, plan, "alpha", Budget(DATASET, 1.5, frozenset({"e" * 64})))
    assert gate.lifetime_spent() == 0
    for number in range(4):
        gate.release(number, output(plan))


# -- reservations ------------------------------------------------------------------------------------------------------


def test_a_round_is_reserved_once_and_settled_by_its_release(gate: ReleaseGate, ledger: Ledger) -> None:
    gate.reserve(0)
    gate.reserve(0)  # again after a crash
    assert [type(entry) for entry in ledger.entries] == [Reservation]
    assert gate.epsilon_spent() == 0.0
    assert gate.release(0, output()).entry.reservation == 0
    assert ledger.reservation(PLAN.hash, 0) is None
    assert ledger.committed() == ledger.events() == paid(output().events)


def test_two_studies_cannot_reserve_the_same_last_piece(ledger: Ledger) -> None:
    plan, rival = budget_plan(4), example_plan(study__name="rival")
    first = ReleaseGate(ledger, plan, "alpha", Budget(DATASET, 1.5))
    for number in range(3):
        first.release(number, output(plan))
    first.reserve(3)
    second = ReleaseGate(ledger, rival, "alpha", Budget(DATASET, 1.5))
    with pytest.raises(BudgetExhausted):
        second.reserve(0)
    first.release(3, output(plan))  # what is reserved can be used
    with pytest.raises(BudgetExhausted):
        second.reserve(0)


def test_other_patients_after_a_crash_get_a_reservation_of_their_own(ledger: Ledger) -> None:
    ReleaseGate(ledger, PLAN, "alpha", BUDGET).reserve(0)
    gate = ReleaseGate(ledger, PLAN, "alpha", Budget("e" * 64))
    gate.reserve(0)
    assert gate.release(0, output()).entry.dataset == "e" * 64
    assert [type(entry) for entry in ledger.entries] == [Reservation, Void, Reservation, Release]


def test_training_that_came_to_nothing_is_paid_for(gate: ReleaseGate, ledger: Ledger) -> None:
    """That it diverged, and the hospital goes silent, is an output of the mechanism too."""
    gate.reserve(0)
    gate.spend_without_release(0, "system")
    assert ledger.events() == paid(output().events)
    last = ledger.entries[-1]
    assert isinstance(last, Release)
    assert {channel.mechanism for channel in last.channels} == {"public"}


def test_a_plan_with_a_large_delta_does_not_make_earlier_studies_cheap(ledger: Ledger) -> None:
    strict = example_plan(study__name="strict", privacy__large__delta=1e-6)
    ReleaseGate(ledger, strict, "alpha", BUDGET).release(0, output(strict))
    loose = example_plan(privacy__large__delta=1e-3)
    gate = ReleaseGate(ledger, loose, "alpha", BUDGET)
    assert gate.lifetime_spent() == epsilon(ledger.events(), 1e-6) > epsilon(ledger.events(), 1e-3)


def test_who_holds_the_budget_is_named(ledger: Ledger) -> None:
    plan, rival = budget_plan(1), example_plan(study__name="rival")
    ReleaseGate(ledger, plan, "alpha", Budget(DATASET, 1.5)).reserve(0)
    with pytest.raises(BudgetExhausted, match=f"reserved for round 1 of study {plan.hash[:16]}"):
        ReleaseGate(ledger, rival, "alpha", Budget(DATASET, 1.5)).reserve(0)


def test_what_is_given_back_is_there_again(ledger: Ledger) -> None:
    plan, rival = budget_plan(1), example_plan(study__name="rival")
    first = ReleaseGate(ledger, plan, "alpha", Budget(DATASET, 1.5))
    first.reserve(0)
    second = ReleaseGate(ledger, rival, "alpha", Budget(DATASET, 1.5))
    with pytest.raises(BudgetExhausted):
        second.reserve(0)
    second.give_back()  # gives back its own, of which there are none
    with pytest.raises(BudgetExhausted):
        second.reserve(0)
    first.give_back()
    second.reserve(0)
    assert [type(entry) for entry in ledger.entries] == [Reservation, Void, Reservation]


def test_a_budget_nobody_can_keep_is_refused_before_the_first_round(ledger: Ledger) -> None:
    plan = example_plan(privacy__large__noise_multiplier=0.1, privacy__large__sampling_rate=0.9)
    with pytest.raises(BudgetExhausted):
        ReleaseGate(ledger, plan, "alpha", BUDGET).check_affordable(0)
    assert ledger.count == 0


def test_time_comes_from_the_clock(tmp_path: Path) -> None:
    clock = iter([NOW + 0.9, NOW - 3600])
    with Ledger.open(tmp_path / "l.jsonl", "alpha", fixed_key(), lambda: next(clock)) as ledger:
        gate = ReleaseGate(ledger, PLAN, "alpha", BUDGET)
        assert gate.release(0, output()).entry.time == int(NOW)
        # A clock set back is the hospital's own affair: the chain gives the order, not the time.
        assert gate.release(1, output()).entry.time == int(NOW) - 3600
