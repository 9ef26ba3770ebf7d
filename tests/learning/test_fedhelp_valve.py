"""FedHelp behind the valve: what leaves depends on public things and paid mechanisms, and all agree on the base."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import InvalidPlan, PlanChanged, PublicSetMismatch, StorageError
from secure_fedhelp.learning import averaging
from secure_fedhelp.learning.distillation import ranking_loss, soft_loss
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.learning.models import flatten, load_flat
from secure_fedhelp.learning.steps import _batches, home_steps, warm_model
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.study.channel import Vector, pack_channels, unpack_mean
from secure_fedhelp.study.plan import parse_plan

Study = Any
TWIN = {"name": "fedhelp", "twin": True}
NAMES = ("alpha", "beta", "gamma")


def hospital(study: Study, name: str, noise: object | None = None, records: object | None = None) -> FedHelp:
    source = noise or SeededNoise(name.encode())
    mine = records or study.records[name]
    return FedHelp(Site(study.plan, name, mine, study.public, study.teacher, source))  # type: ignore[arg-type]


def run_round(study: Study, hospitals: dict[str, FedHelp], number: int) -> dict[str, Vector]:
    total = sum(pack_channels(study.plan, number, name, h.contribute(number).channels) for name, h in hospitals.items())
    means = unpack_mean(study.plan, number, np.asarray(total), tuple(sorted(hospitals)))
    for h in hospitals.values():
        h.absorb(number, means)
    return means


def same(one: PrivateOutput, two: PrivateOutput) -> bool:
    return all(np.array_equal(one.channels[name], two.channels[name]) for name in one.channels)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_records_reach_an_upload_only_through_drawn_patients(study: Study, name: str, nobody_drawn: object) -> None:
    """No patient drawn, same noise: hospitals with different records must send the same, round after round.

    Whoever makes a large hospital's pupil between the rounds lets it see all records: it must not teach then either.
    """
    one = hospital(study, name, nobody_drawn)
    two = hospital(study, name, nobody_drawn, records=study.test)
    for number in range(3):
        first, second = one.contribute(number), two.contribute(number)
        assert same(first, second)
        means = {channel: 0.5 * values for channel, values in first.channels.items()}
        one.absorb(number, means)
        two.absorb(number, means)
        private = flatten(one.personalise()), flatten(two.personalise())
        assert not np.array_equal(*private), "what stays at home has seen different records"


def test_the_event_is_the_plans_and_only_the_logits_are_post_processing(study: Study) -> None:
    output = hospital(study, "beta").contribute(0)
    assert output.events == (planned_event(study.plan.privacy["small"]),)
    assert {name: proof.mechanism for name, proof in output.proofs.items()} == {
        "model-update": "dp-sgd",
        "public-logits": "post-processing",
    }
    assert output.noise_source == "seeded-research"
    assert set(output.channels) == {"model-update", "public-logits"}


def test_public_logits_can_be_computed_from_the_update_alone(study: Study) -> None:
    member = hospital(study, "alpha")
    base = flatten(member.shared_model())
    output = member.contribute(0)
    model = member.shared_model()
    load_flat(model, base + output.channels["model-update"])
    np.testing.assert_allclose(output.channels["public-logits"], predict(model, study.public.inputs).ravel(), atol=1e-5)


def test_contributing_again_gives_the_same_from_the_same_state(study: Study) -> None:
    member = hospital(study, "alpha", SeededNoise(b"1"))
    before = member.save()
    first = member.contribute(0)
    assert member.save() == before, "a round that is not absorbed leaves no trace"
    again = hospital(study, "alpha", SeededNoise(b"1")).contribute(0)
    assert same(first, again)


@pytest.mark.parametrize("top", [2, 3])
def test_a_ranking_that_outranks_nothing_is_refused(study_with: Callable[..., Study], top: int) -> None:
    """Else 0 / 0 would be in the large model's loss, after the last round."""
    with pytest.raises(InvalidPlan, match="ranking_top"):
        FedHelp.lengths(study_with(method={"name": "fedhelp", "ranking_top": top}).plan)


@pytest.mark.parametrize(("classes", "half"), [(2, 1), (3, 1), (4, 2), (9, 4)])
def test_half_of_the_classes_are_ranked_above_the_rest_unless_the_plan_says_how_many(
    study: Study, classes: int, half: int
) -> None:
    """Of nine classes one alone would leave the large model all that the others know of their order."""
    values = study.plan.model_dump(mode="json")
    values["data"]["classes"] = [f"class-{number}" for number in range(classes)]

    def of(**options: Any) -> Any:
        return parse_plan(values | {"method": {"name": "fedhelp", **options}})

    plan = of()
    assert plan.method.ranking_top == half
    assert plan.hash == of(ranking_top=half).hash == parse_plan(plan.model_dump(mode="json")).hash
    assert FedHelp.lengths(plan)
    for said in {1, max(1, half - 1), classes - 1}:
        assert of(ranking_top=said).method.ranking_top == said
    del values["method"]
    assert parse_plan(values).hash == plan.hash, "a plan that names no method is of FedHelp"


def test_values_beyond_a_channels_bound_are_cut(study: Study) -> None:
    channels = [c.model_copy(update={"bound": 1e-3}) for c in study.plan.channels]
    plan = study.plan.model_copy(update={"channels": tuple(channels)})
    output = hospital(dataclasses.replace(study, plan=plan), "beta").contribute(0)
    for values in output.channels.values():
        assert np.abs(values).max() == 1e-3


def test_every_hospital_has_the_same_base_after_every_round(study: Study) -> None:
    hospitals = {name: hospital(study, name) for name in NAMES}
    for number in range(3):
        before = flatten(hospitals["alpha"].shared_model())
        means = run_round(study, hospitals, number)
        bases = [flatten(h.shared_model()) for h in hospitals.values()]
        assert all(np.array_equal(bases[0], base) for base in bases)
        np.testing.assert_allclose(bases[0], before + means["model-update"], atol=1e-6)


def test_a_hospital_that_sat_out_a_round_still_has_the_base(study: Study) -> None:
    hospitals = {name: hospital(study, name) for name in NAMES}
    late = hospital(study, "gamma")
    for number in range(2):
        late.absorb(number, run_round(study, hospitals, number))
    np.testing.assert_array_equal(flatten(late.shared_model()), flatten(hospitals["beta"].shared_model()))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_on_exactly_where_it_was(study: Study, name: str) -> None:
    hospitals = {n: hospital(study, n) for n in NAMES}
    run_round(study, hospitals, 0)
    restored = hospital(study, name, SeededNoise(b"later"))
    restored.load(hospitals[name].save())
    hospitals[name].site = replace(hospitals[name].site, noise=SeededNoise(b"later"))
    assert same(restored.contribute(1), hospitals[name].contribute(1))
    means = run_round(study, hospitals, 1)
    restored.absorb(1, means)
    assert restored.evaluate(study.test) == hospitals[name].evaluate(study.test)


def test_damaged_foreign_and_hostile_checkpoints_are_refused(study: Study, study_with: Callable[..., Study]) -> None:
    member = hospital(study, "beta")
    data = member.save()
    with pytest.raises(StorageError, match="damaged"):
        member.load(data[: len(data) // 2])
    with pytest.raises(StorageError):
        member.load(pickle.dumps({"plan": print}))
    with pytest.raises(PlanChanged):
        hospital(study, "gamma").load(data)
    with pytest.raises(PlanChanged):
        hospital(study_with(public_steps=7), "beta").load(data)


def test_another_public_set_than_the_plans_is_refused(study: Study) -> None:
    other = PublicSet.of(study.public.inputs + 1, study.public.labels)
    with pytest.raises(PublicSetMismatch):
        FedHelp(Site(study.plan, "beta", study.records["beta"], other, None, SeededNoise(b"")))


def test_a_hospital_without_a_teacher_keeps_the_common_base(study: Study) -> None:
    hospitals = {name: hospital(study, name) for name in NAMES}
    hospitals["gamma"] = FedHelp(
        Site(study.plan, "gamma", study.records["gamma"], study.public, None, SeededNoise(b"g"))
    )
    run_round(study, hospitals, 0)
    np.testing.assert_array_equal(flatten(hospitals["gamma"].shared_model()), flatten(hospitals["beta"].shared_model()))


def test_the_teacher_and_the_ensemble_both_teach(study: Study, study_with: Callable[..., Study]) -> None:
    taught = hospital(study, "beta", SeededNoise(b"t"))
    alone = FedHelp(Site(study.plan, "beta", study.records["beta"], study.public, None, SeededNoise(b"t")))
    assert not same(taught.contribute(0), alone.contribute(0))
    outputs = []
    for sign in (1, -1):
        member = hospital(study, "beta", SeededNoise(b"e"))
        zero = np.zeros(study.plan.channel("model-update").length)
        member.absorb(0, {"model-update": zero, "public-logits": sign * study.teacher.ravel().astype(np.float64)})
        outputs.append(member.contribute(1))
    assert not same(*outputs)


def test_without_labels_teacher_or_ensemble_public_steps_do_nothing(study_with: Callable[..., Study]) -> None:
    blind = study_with(labelled=False)
    member = FedHelp(Site(blind.plan, "beta", blind.records["beta"], blind.public, None, SeededNoise(b"")))
    cold = FedHelp(
        Site(
            blind.plan.model_copy(update={"learning": blind.plan.learning.model_copy(update={"warm_steps": 0})}),
            "beta",
            blind.records["beta"],
            blind.public,
            None,
            SeededNoise(b""),
        )
    )
    assert same(member.contribute(0), cold.contribute(0))


def test_personal_models_stay_personal(study: Study) -> None:
    small, large = hospital(study, "beta"), hospital(study, "alpha")
    shared = flatten(small.shared_model())
    personal = small.personalise()
    assert small.personalise() is personal, "trained once"
    assert not np.array_equal(flatten(personal), shared)
    np.testing.assert_array_equal(flatten(small.shared_model()), shared)
    assert len(flatten(large.personalise())) != len(shared), "a large hospital uses its large network"
    small.absorb(0, {"model-update": np.zeros(len(shared))})
    assert small.personalise() is not personal, "a new base, a new personal model"


def test_a_large_hospitals_network_is_trained_once_and_by_the_last_shared_model(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No round waits for it, and an optimizer that starts anew every round costs it more than it learns."""
    calls: list[int] = []

    def counted(model: Any, records: Any, steps: int, *rest: Any) -> None:
        calls.append(steps)
        home_steps(model, records, steps, *rest)

    monkeypatch.setattr(averaging, "home_steps", counted)
    hospitals = {name: hospital(study, name) for name in NAMES}
    for number in range(3):
        run_round(study, hospitals, number)
    assert not calls, "nothing is trained at home before the last round is heard"
    member, learning = hospitals["alpha"], study.plan.learning
    found = flatten(member.personalise())
    assert calls == [3 * learning.pupil_steps]
    model = warm_model(study.plan, study.plan.model.large, study.public, member.site.answers)
    rng = member.site.rng(3, 0)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning.pupil_learning_rate, weight_decay=learning.weight_decay
    )
    shared, records = member.shared_model(), study.records["alpha"]
    for batch in _batches(len(records), learning.home_batch, 3 * learning.pupil_steps, rng):
        inputs, labels = torch.from_numpy(records.inputs[batch]), torch.from_numpy(records.labels[batch])
        with torch.no_grad():
            answers = shared(inputs)
        logits = model(inputs)
        loss = member.task.losses(logits, labels).mean() + learning.home_soft_weight * soft_loss(answers, logits)
        loss = loss + member.options.ranking_weight * ranking_loss(answers, logits, member.options.top(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(found, flatten(model), atol=2e-5)


def test_exported_models_load_without_running_code(study: Study) -> None:
    member = hospital(study, "alpha")
    exported = member.export_models()
    assert set(exported) == {"shared", "personal"}
    import io

    state = torch.load(io.BytesIO(exported["shared"]), weights_only=True)
    model = member.shared_model()
    model.load_state_dict(state)


def test_metrics_name_both_models(study: Study) -> None:
    found = hospital(study, "alpha").evaluate(study.test)
    assert set(found) == {"study_model", "personal_model"}
    assert found["study_model"] == hospital(study, "beta").evaluate_shared(study.test)


# --- the twin ---------------------------------------------------------------------------------------------------------


def test_a_twin_is_one_event_and_its_large_half_learns_under_noise(study_with: Callable[..., Study]) -> None:
    study = study_with(method=TWIN, personal_steps=0)
    member = hospital(study, "alpha")
    before = flatten(member.personalise())
    output = member.contribute(0)
    assert output.events == (planned_event(study.plan.privacy["large"]),)
    zero = np.zeros(study.plan.channel("model-update").length)
    member.absorb(0, {"model-update": zero})
    assert not np.array_equal(flatten(member.personalise()), before)


def test_a_twins_large_half_is_under_noise_too(study_with: Callable[..., Study], nobody_drawn: object) -> None:
    """The large model teaches here, so it too may depend on records only through drawn patients."""
    study = study_with(method=TWIN, personal_steps=0)
    one = hospital(study, "alpha", nobody_drawn)
    two = hospital(study, "alpha", nobody_drawn, records=study.test)
    for number in range(2):
        assert same(one.contribute(number), two.contribute(number))
        zero = np.zeros(study.plan.channel("model-update").length)
        one.absorb(number, {"model-update": zero})
        two.absorb(number, {"model-update": zero})
        np.testing.assert_array_equal(flatten(one.personalise()), flatten(two.personalise()))


def test_a_small_hospital_has_no_twin(study_with: Callable[..., Study], study: Study) -> None:
    twin = study_with(method=TWIN)
    assert same(hospital(twin, "beta").contribute(0), hospital(study, "beta").contribute(0))
