"""What is frozen is sent nowhere, gets no noise, and is the plan's: hospitals that hold other values are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secure_fedhelp.errors import InvalidPlan, UnsupportedModel
from secure_fedhelp.learning.method import Method, Site
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.learning.models import build, constants_sha256, flatten, load_flat, parameter_count, trained
from secure_fedhelp.learning.steps import fresh_model
from secure_fedhelp.learning.trial import try_networks
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import ModelSection

Study = Any
PATH, FEATURES, CLASSES = "odd_networks:frozen", 5, 2
#: adapter 8 x 6 + 6, and two heads of 6 x 2 + 2.
TRAINED = 54 + 2 * 14


def planned(study: Study, **model: str | None) -> StudyPlan:
    """The tiny study's plan with the frozen network in it, complete unless ``model`` says otherwise."""
    found = constants_sha256(build(PATH, (FEATURES,), CLASSES, study.plan.study.seed))
    section = ModelSection.model_validate(
        {"small": PATH, "large": PATH, "small_constants": found, "large_constants": found} | model
    )
    length = {"model-update": parameter_count(PATH, (FEATURES,), CLASSES)}
    channels = tuple(
        c.model_copy(update={"length": length[c.name]}) if c.name in length else c for c in study.plan.channels
    )
    plan: StudyPlan = study.plan.model_copy(update={"model": section, "channels": channels})
    return plan


def site(plan: StudyPlan, study: Study, name: str) -> Method:
    return make_method(Site(plan, name, study.records[name], study.public, study.teacher, SeededNoise(name.encode())))


def frozen_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items() if ".encoder." in name}


@pytest.mark.parametrize("method", ["fedavg", "fedhelp", "ditto", "proxyfl"])
def test_a_study_with_a_frozen_encoder_sends_and_changes_the_rest_alone(
    study_with: Callable[..., Study], method: str
) -> None:
    study = study_with(method={"name": method})
    plan = planned(study)
    methods = {name: site(plan, study, name) for name in study.records}
    start = frozen_of(fresh_model(plan, PATH))
    assert len(start) == 7, "two of the linear layer, two of the norm and its three buffers"
    for number in range(2):
        said = {name: one.contribute(number).channels for name, one in methods.items()}
        assert all(values["model-update"].shape == (TRAINED,) for values in said.values())
        means = {key: np.mean([values[key] for values in said.values()], axis=0) for key in next(iter(said.values()))}
        before = flatten(methods["beta"].shared_model())
        for one in methods.values():
            one.absorb(number, means)
        assert not np.array_equal(flatten(methods["beta"].shared_model()), before)
    for one in methods.values():
        for model in (one.shared_model(), one.personalise()):
            found = frozen_of(model)
            assert found.keys() == start.keys()
            assert all(torch.equal(found[name], values) for name, values in start.items())
    saved = methods["beta"].save()
    again = site(plan, study, "beta")
    again.load(saved)
    np.testing.assert_array_equal(flatten(again.shared_model()), flatten(methods["beta"].shared_model()))


def test_only_what_is_trained_is_in_the_vector() -> None:
    model = build(PATH, (FEATURES,), CLASSES, seed=1)
    assert parameter_count(PATH, (FEATURES,), CLASSES) == len(flatten(model)) == TRAINED
    assert sum(p.numel() for p in trained(model)) == TRAINED
    load_flat(model, np.zeros(TRAINED))
    assert all(bool((p == 0).all()) == p.requires_grad for name, p in model.named_parameters() if "weight" in name)


def test_a_plan_that_does_not_name_the_frozen_values_is_refused_with_what_to_write(
    study_with: Callable[..., Study],
) -> None:
    study = study_with(method={"name": "fedavg"})
    with pytest.raises(InvalidPlan, match="does not say which values they have") as refused:
        try_networks(planned(study, small_constants=None))
    found = constants_sha256(build(PATH, (FEATURES,), CLASSES, study.plan.study.seed))
    assert f'small_constants = "{found}"' in refused.value.hint
    try_networks(planned(study))


def test_other_frozen_values_than_the_plans_are_refused(
    study_with: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hospital whose encoder was trained on its own patients would put them into every gradient without noise."""
    import odd_networks

    study = study_with(method={"name": "fedavg"})
    plan = planned(study)

    def other(shape: tuple[int, ...], classes: int) -> nn.Module:
        made = odd_networks.FrozenEncoder(shape[0], classes)
        with torch.no_grad():
            made.encoder[1].running_mean.add_(0.1)  # a buffer is as much a constant as a weight
        return made

    monkeypatch.setattr(odd_networks, "frozen", other)
    with pytest.raises(InvalidPlan, match="other frozen parameters or buffers"):
        site(plan, study, "beta")


def test_a_network_with_nothing_frozen_needs_no_such_key(study_with: Callable[..., Study]) -> None:
    study = study_with(method={"name": "fedavg"})
    model = study.plan.model.model_copy(update={"small_constants": "0" * 64})
    with pytest.raises(InvalidPlan, match="has no frozen parameters or buffers"):
        fresh_model(study.plan.model_copy(update={"model": model}), study.plan.model.small)


def test_plans_without_the_keys_keep_their_hash(study_with: Callable[..., Study]) -> None:
    plan = study_with(method={"name": "fedavg"}).plan
    dumped = plan.model_dump(mode="json")
    assert dumped["model"] == {"small": plan.model.small, "large": plan.model.large}
    assert plan.hash == digest(dumped)
    assert planned(study_with(method={"name": "fedavg"})).hash != plan.hash


def test_a_frozen_last_layer_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="the last layer '2' is frozen"):
        build("odd_networks:frozen_head", (FEATURES,), CLASSES, seed=0)


def test_the_hash_tells_names_types_shapes_and_values_apart() -> None:
    def of(**buffers: torch.Tensor) -> str | None:
        module = nn.Module()
        for name, values in buffers.items():
            module.register_buffer(name, values)
        return constants_sha256(module)

    ones = torch.ones(4)
    found = {of(a=ones), of(b=ones), of(a=ones.double()), of(a=ones.view(2, 2)), of(a=ones * 2), of(a=ones, b=ones * 1)}
    assert len(found) == 6
    assert of() is None
    assert of(a=torch.tensor(1)) == hashlib.sha256(b"a torch.int64 []\n" + (1).to_bytes(8, "little")).hexdigest()
    assert of(a=ones.view(2, 2).T) == of(a=ones.view(2, 2)), "values, not how they lie in memory"
