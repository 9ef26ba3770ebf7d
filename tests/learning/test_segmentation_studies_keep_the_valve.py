"""FedHelp on masks, by the interface that hospitals use: channels, twin, pooled answers, two teachers, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_masks as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedhelp.data.checks import check_records
from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import InvalidData, InvalidPlan, UnsupportedModel
from secure_fedhelp.learning.alignment import AlignedLoss
from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.evaluation import evaluate, predict
from secure_fedhelp.learning.method import Bounds, Method, Site
from secure_fedhelp.learning.methods import make_method, method_class
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.learning.methods.prr import Prr
from secure_fedhelp.learning.models import Surrogate, build, flatten, load_flat
from secure_fedhelp.learning.pooling import expand, pool
from secure_fedhelp.learning.steps import fresh_model, public_steps
from secure_fedhelp.learning.task import Task
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.training import train_private
from secure_fedhelp.study.channel import Vector, pack_channels, unpack_mean
from secure_fedhelp.study.plan import StudyPlan, parse_plan

UNETS = ("unet-small", "unet-large")
NETWORKS = ("tiny_masks:small", "tiny_masks:large")


def members(plan: StudyPlan, teacher: Any = None, labelled: bool = True) -> dict[str, Method]:
    public, records = tiny.make_public(labelled), tiny.make_private()
    return {n: make_method(Site(plan, n, records[n], public, teacher, SeededNoise(n.encode()))) for n in tiny.SIZES}


def run_round(plan: StudyPlan, hospitals: dict[str, Method], number: int) -> dict[str, Vector]:
    total: Any = 0
    for name, hospital in hospitals.items():
        output = hospital.contribute(number)
        assert output.events == planned_events(plan, name, number)
        assert set(output.channels) == set(plan.lengths(number))
        total = total + pack_channels(plan, number, name, output.channels)
    means = unpack_mean(plan, number, total, tuple(hospitals))
    for hospital in hospitals.values():
        hospital.absorb(number, means)
    return means


@pytest.mark.parametrize("method", [{}, {"twin": True, "logit_pool": 4}], ids=["pupil", "twin-pooled"])
def test_three_rounds_find_the_squares_and_all_keep_one_model(method: dict[str, Any]) -> None:
    public = tiny.make_public()
    plan, test = tiny.make_plan(public, **method), tiny.make_records(12, seed=9)
    hospitals = members(plan, tiny.teacher_of(public))
    before = evaluate(build("tiny_masks:small", tiny.SHAPE, 2, plan.study.seed), test)
    for number in range(3):
        run_round(plan, hospitals, number)
    shared = [flatten(hospital.shared_model()) for hospital in hospitals.values()]
    assert all(np.array_equal(other, shared[0]) for other in shared)
    found = hospitals["alpha"].evaluate(test)
    assert found["study_model"].dice is not None
    assert before.dice is not None
    assert found["study_model"].dice > max(0.5, before.dice)
    restored = members(plan, tiny.teacher_of(public))["alpha"]
    restored.load(hospitals["alpha"].save())
    assert np.array_equal(
        predict(restored.personalise(), test.inputs), predict(hospitals["alpha"].personalise(), test.inputs)
    )


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_masks_reach_an_upload_only_through_drawn_patients(name: str, nobody_drawn: Any) -> None:
    """Nobody drawn and the same noise: other images and other masks must not show in what is sent, in any round."""
    public = tiny.make_public()
    plan = tiny.make_plan(public, logit_pool=2)
    one, two = (
        make_method(Site(plan, name, tiny.make_records(9, seed), public, tiny.teacher_of(public), nobody_drawn))
        for seed in (5, 6)
    )
    for number in range(3):
        first, second = one.contribute(number).channels, two.contribute(number).channels
        assert all(np.array_equal(first[channel], second[channel]) for channel in plan.lengths(number))
        for hospital in (one, two):
            hospital.absorb(number, {channel: 0.5 * values for channel, values in first.items()})
    personal = flatten(one.personalise()), flatten(two.personalise())
    assert not np.array_equal(*personal), "what stays at home has seen other records"


@pytest.mark.parametrize("twin", [False, True])
def test_a_round_of_u_nets(twin: bool) -> None:
    plan = tiny.make_plan(tiny.make_public(), UNETS, twin=twin, logit_pool=4)
    hospitals = members(plan)
    run_round(plan, hospitals, 0)
    assert evaluate(hospitals["beta"].shared_model(), tiny.make_records(3, 8)).dice is not None
    large = hospitals["alpha"]
    assert len(flatten(large.personalise())) > 3 * len(flatten(large.shared_model()))


class Chosen:
    """Draws these patients, and no noise."""

    name = "seeded-research"

    def __init__(self, patients: list[int]) -> None:
        self.patients = patients

    def normal(self, shape: Any, standard_deviation: float) -> Any:
        return np.zeros(shape)

    def poisson_mask(self, count: int, rate: float) -> Any:
        return np.isin(np.arange(count), self.patients)

    def uniform(self, count: int) -> Any:
        return np.zeros(count)


@pytest.mark.parametrize(
    ("architecture", "masked"), [("unet-small", True), ("resnet-small", False), ("tiny_masks:small", True)]
)
def test_a_private_step_is_the_sum_of_clipped_gradients_over_a_constant(architecture: str, masked: bool) -> None:
    plan, records = tiny.make_plan(tiny.make_public()), tiny.make_records(6, seed=4)
    if not masked:
        records = replace(records, labels=np.arange(6) % 2)
    task, drawn, clip = Task(torch.zeros(2), pixelwise=masked), [0, 2, 5], 0.3
    privacy = plan.privacy["small"].model_copy(update={"steps": 1, "clipping_norm": clip})
    trained = Surrogate(build(architecture, tiny.SHAPE, 2, seed=3))
    train_private(trained, task.losses, records, privacy, 8, 0.7, Chosen(drawn))  # type: ignore[arg-type]

    model = Surrogate(build(architecture, tiny.SHAPE, 2, seed=3)).train()
    start, total = flatten(model), np.zeros(len(flatten(model)))
    for index in drawn:
        model.zero_grad()
        inputs, labels = (torch.from_numpy(a[index : index + 1]) for a in (records.inputs, records.labels))
        task.losses(model(inputs), labels).sum().backward()  # type: ignore[no-untyped-call]
        gradient = np.concatenate([np.asarray(p.grad).ravel() for p in model.parameters()]).astype(np.float64)
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    expected = start - 0.7 * total / (privacy.sampling_rate * 8)
    np.testing.assert_allclose(flatten(trained), expected, atol=2e-5)
    assert np.abs(expected - start).max() > 1e-3


def test_what_is_said_about_the_public_set_is_the_models_answers_pooled() -> None:
    public = tiny.make_public()
    plan = tiny.make_plan(public, logit_pool=4)
    hospital = members(plan)["beta"]
    assert isinstance(hospital, FedHelp)
    base, said = flatten(hospital.shared_model()), hospital.contribute(0).channels
    model = hospital.shared_model()
    load_flat(model, base + said["model-update"])
    answers = predict(model, public.inputs)
    expected = [
        answers[n, c, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean()
        for n in range(len(public))
        for c in range(2)
        for i in range(4)
        for j in range(4)
    ]
    np.testing.assert_allclose(said["public-logits"], expected, atol=1e-5)
    hospital.absorb(0, {"model-update": said["model-update"], "public-logits": said["public-logits"]})
    ensemble = hospital.ensemble()
    assert ensemble is not None
    assert ensemble[0].shape == answers.shape
    assert ensemble[0][1, 0, 7, 9] == said["public-logits"].reshape(len(public), 2, 4, 4)[1, 0, 1, 2]


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_expanded_answers_pool_to_themselves(factor: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(2, 3, 2, 5))
    np.testing.assert_allclose(pool(expand(values, factor), factor), values, atol=1e-12)
    assert expand(values, factor).shape == (2, 3, 2 * factor, 5 * factor)


def test_two_teachers_weigh_half_each() -> None:
    """One public step of plain gradients would be a mean of two; Adam's is seen in the loss that it follows."""
    public = tiny.make_public(labelled=False)
    plan = tiny.make_plan(public)
    one, two = tiny.teacher_of(public), tiny.teacher_of(public, slope=-2.0)

    def after(teacher: Any) -> Any:
        model = fresh_model(plan, plan.model.small)
        public_steps(model, plan, 0, public, teacher, None)
        return flatten(model)

    same = after(one)
    assert np.allclose(after((one.astype(np.float64),)), same)
    assert np.allclose(after((one, one)), same, atol=1e-5)
    assert not np.allclose(after((one, two)), same)
    assert np.allclose(after((one, two)), after((two, one)), atol=1e-5)
    torn = Site(plan, "beta", tiny.make_records(9, 2), public, (one, two), SeededNoise(b"x"))
    assert [a.dtype for a in torn.answers] == [np.float64, np.float64]
    assert make_method(torn).contribute(0).channels["model-update"].any()


def test_the_step_with_two_teachers_follows_the_mean_of_both_divergences(monkeypatch: pytest.MonkeyPatch) -> None:
    from secure_fedhelp.learning import steps

    class Plain(torch.optim.SGD):
        def __init__(self, parameters: Any, lr: float, **_: object) -> None:
            super().__init__(parameters, lr=1.0)

    monkeypatch.setattr(steps.torch.optim, "Adam", Plain)
    public = tiny.make_public(labelled=False)
    plan = tiny.make_plan(public)
    plan = plan.model_copy(
        update={"learning": plan.learning.model_copy(update={"public_steps": 1, "teacher_weight": 3.0})}
    )
    teachers = tiny.teacher_of(public), tiny.teacher_of(public, slope=-2.0)
    model = fresh_model(plan, plan.model.small)
    start = flatten(model)
    public_steps(model, plan, 0, public, teachers, None)
    again = fresh_model(plan, plan.model.small)
    _, auxiliary = again.both(torch.from_numpy(public.inputs))  # one batch holds the whole set
    loss = 3.0 * sum(soft_loss(torch.from_numpy(t), auxiliary) for t in teachers) / 2
    loss.backward()  # type: ignore[union-attr]
    gradient = np.concatenate(
        [np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel() for p in again.parameters()]
    )
    np.testing.assert_allclose(flatten(model), start - gradient, atol=1e-5)


def test_networks_and_labels_of_another_task_are_refused() -> None:
    public = tiny.make_public()
    plan = tiny.make_plan(public)
    with pytest.raises(UnsupportedModel, match="resnet-small has an answer for each record"):
        fresh_model(plan, "resnet-small")
    values = plan.model_dump(mode="json", exclude_none=True)
    classified = parse_plan(values | {"data": values["data"] | {"task": "classification"}})
    with pytest.raises(UnsupportedModel, match="tiny_masks:small has an answer for each pixel"):
        fresh_model(classified, "tiny_masks:small")
    with pytest.raises(InvalidData, match="the records have masks"):
        check_records(tiny.make_private()["beta"], classified, "beta")
    check_records(tiny.make_private()["beta"], plan, "beta")


@pytest.mark.parametrize("factor", [3, 5])
def test_a_pool_that_does_not_divide_the_image_is_refused(factor: int) -> None:
    with pytest.raises(InvalidPlan, match="does not divide"):
        FedHelp.lengths(tiny.make_plan(tiny.make_public(), logit_pool=factor))


def test_plans_that_count_or_tabulate_pixels_are_refused() -> None:
    values = tiny.make_plan(tiny.make_public()).model_dump(mode="json", exclude_none=True)
    counted = {"channels": [*values["channels"], {"name": "metrics", "length": 164, "bound": 16.0}]}
    with pytest.raises(InvalidPlan, match="a segmentation has one for every pixel"):
        parse_plan(values | counted | {"metrics": {"release": "noised", "noise_multiplier": 5.0}})
    with pytest.raises(InvalidPlan, match="a segmentation is of images"):
        parse_plan(values | {"data": values["data"] | {"kind": "table"}})


def other_plan(public: PublicSet, networks: tuple[str, str] = NETWORKS, **method: Any) -> StudyPlan:
    """Three rounds of another method, with the channels that it asks for."""
    draft = tiny.make_plan(public, networks, **method)
    sections = method_class(draft.method).channels(draft, Bounds(update=4.0, logits=16.0, sketch=50.0))
    channels = [section.model_dump(mode="json") for section in sections]
    return parse_plan(draft.model_dump(mode="json", exclude_none=True) | {"channels": channels})


OTHERS: list[dict[str, Any]] = [
    {"name": "fedavg"},
    {"name": "fedprox"},
    {"name": "ditto"},
    {"name": "proxyfl"},
    {"name": "pfednet", "segments": True, "segment_count": 7, "full_every": 2, "sparsity": 0.01},
    {"name": "prr", "cpa": False},
    {"name": "prr", "aligned_from": 1},
    {"name": "prr", "aligned_from": 1, "twin": True, "gaussian_prototypes": True},
]


@pytest.mark.parametrize("method", OTHERS, ids=lambda m: "-".join(map(str, m.values())))
def test_other_methods_train_on_masks(method: dict[str, Any]) -> None:
    public = tiny.make_public(labelled=method["name"] != "prr")
    plan = other_plan(public, **method)
    hospitals = members(plan, (tiny.teacher_of(public), tiny.teacher_of(public, 2.0)), public.labels is not None)
    for number in range(2):
        run_round(plan, hospitals, number)
    found = hospitals["alpha"].evaluate(tiny.make_records(6, 9))
    assert all(metrics.dice is not None for metrics in found.values())
    restored = members(plan, labelled=public.labels is not None)["beta"]
    restored.load(hospitals["beta"].save())
    assert np.array_equal(flatten(restored.shared_model()), flatten(hospitals["beta"].shared_model()))


def test_prr_aligns_the_pixels_of_u_nets() -> None:
    """As a plan for retina would have it: unlike a class of each record, prototypes are of the pixels of each."""
    public = tiny.make_public()
    plan = other_plan(public, UNETS, name="prr", aligned_from=1)
    hospitals = members(plan)
    for number in range(2):
        means = run_round(plan, hospitals, number)
    assert means["prototypes"].shape == (2 * fresh_model(plan, "unet-small").features,)
    member = hospitals["beta"]
    assert isinstance(member, Prr)
    losses = member.losses(2)
    assert isinstance(losses, AlignedLoss)
    assert member.own_prototypes is not None
    own, cohort = member.own_prototypes, means["prototypes"].reshape(2, -1)
    for c in (0, 1):
        cosine = float(own[c] @ cohort[c]) / float(np.linalg.norm(own[c]) * np.linalg.norm(cohort[c]))
        assert float(losses.gamma[c]) == pytest.approx(2 / max(cosine + 1, 0.2), rel=1e-5), "tau is 1 for pixels"
    assert member.evaluate_shared(tiny.make_records(3, 8)).dice is not None


def test_pfednet_keeps_decoders_apart_and_shares_encoders() -> None:
    decoder = ["extractor.upcat_*", "private_head.*", "public_head.*"]
    plan = other_plan(tiny.make_public(), UNETS, name="pfednet", personal=decoder, sketch_values=8, neighbours=2)
    hospitals = members(plan)
    for number in range(2):
        run_round(plan, hospitals, number)
    models = [dict(hospital.shared_model().named_parameters()) for hospital in hospitals.values()]
    assert any(name.startswith("extractor.down_4") for name in models[0])
    for name in models[0]:
        if name.startswith(("extractor.upcat", "private_head")):
            assert not torch.equal(models[0][name], models[1][name]), name
        elif not name.startswith("public_head"):  # that one is a hospital's own, and has seen the same public set
            assert torch.equal(models[0][name], models[1][name]), name
    found = hospitals["alpha"].evaluate(tiny.make_records(3, 8))
    assert all(metrics.dice is not None for metrics in found.values())


def test_a_plan_may_choose_tau_and_pixels_have_another_than_records() -> None:
    with pytest.raises(InvalidPlan, match="tau"):
        tiny.make_plan(tiny.make_public(), name="prr", tau=0.9)
    for options, wanted in (({}, 1.0), ({"tau": 2.5}, 2.5)):
        member = members(other_plan(tiny.make_public(), name="prr", **options))["beta"]
        assert isinstance(member, Prr)
        assert member._tau == wanted


def test_seesaw_weights_are_of_pixels_and_a_rare_class_is_spared() -> None:
    """Counts as decrypted, in shares of images: 8.5 images' worth of background and one and a half of squares."""
    plan = other_plan(tiny.make_public(), name="prr")
    member = members(plan)["beta"]
    assert isinstance(member, Prr)
    said = member.contribute(0).channels
    scale = min(1.0, plan.channel("class-counts").bound / (2 * 14))
    member.absorb(0, dict(said) | {"class-counts": scale * np.array([8.5, 1.5])})
    losses = member.losses(1)
    assert isinstance(losses, AlignedLoss)
    wanted = [[1, (1.5 / 8.5) ** 0.8], [1, 1]]
    np.testing.assert_allclose(losses.log_seesaw.exp().numpy(), wanted, rtol=1e-5)


def test_masks_reach_prrs_spectrum_only_through_drawn_patients(nobody_drawn: Any) -> None:
    public = tiny.make_public()
    plan = other_plan(public, name="prr", aligned_from=1)
    one, two = (
        make_method(Site(plan, "beta", tiny.make_records(9, seed), public, tiny.teacher_of(public), nobody_drawn))
        for seed in (5, 6)
    )
    for number in range(3):
        first, second = one.contribute(number).channels, two.contribute(number).channels
        assert np.array_equal(first["spectrum"], second["spectrum"])
        assert not np.array_equal(first["prototypes"], second["prototypes"]), "about the records, under their own noise"
        for hospital in (one, two):
            hospital.absorb(number, {channel: 0.5 * values for channel, values in first.items()})


def test_pooling_is_for_pixels() -> None:
    plan = tiny.make_plan(tiny.make_public(), logit_pool=2)
    data = plan.data.model_copy(update={"task": "classification"})
    with pytest.raises(InvalidPlan, match="no pixels to pool"):
        FedHelp.lengths(plan.model_copy(update={"data": data}))
