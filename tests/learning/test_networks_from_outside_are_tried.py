"""Networks by import path: taken apart exactly, or refused with the layer's name; policies name their path first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secure_fedhelp.errors import InvalidPlan, UnsupportedModel
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.learning.models import Surrogate, build, flatten, load_flat, parameter_count
from secure_fedhelp.privacy.training import check_model

Study = Any
Shape = tuple[int, ...]


class Nested(nn.Module):
    """The last layer sits inside of another module, and one of the same size comes before it."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, classes), nn.Tanh(), nn.Linear(classes, 7), nn.Tanh())
        self.top = nn.ModuleDict({"answer": nn.Linear(7, classes)})

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.top["answer"](self.body(inputs)))


def nested(shape: Shape, classes: int) -> nn.Module:
    return Nested(shape[0], classes)


def pixels(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))


def softmaxed(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], classes), nn.LogSoftmax(dim=1))


def twice(shape: Shape, classes: int) -> nn.Module:
    layer = nn.Linear(classes, classes)
    return nn.Sequential(nn.Linear(shape[0], classes), layer, nn.Tanh(), layer)


def headless(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], classes + 1))


def bare(shape: Shape, classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes)


def normed(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


def broken(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0] + 1, 4), nn.Linear(4, classes))


def raising(shape: Shape, classes: int) -> nn.Module:
    raise KeyError("weights")


def no_module(shape: Shape, classes: int) -> nn.Module:
    return shape  # type: ignore[return-value]


class Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.detach().mean(dim=0, keepdim=True)


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.randn_like(inputs)


def here(function: Callable[..., Any]) -> str:
    return f"{__name__}:{function.__name__}"


def test_a_network_is_taken_apart_at_its_last_layer() -> None:
    model = build(here(nested), (3,), 2, seed=4)
    torch.manual_seed(4)
    whole = Nested(3, 2)
    inputs = torch.randn(5, 3)
    torch.testing.assert_close(model(inputs), whole(inputs))
    assert model.private_head.weight.shape == (2, 7)
    assert isinstance(model.extractor.get_submodule("top.answer"), nn.Identity)
    assert parameter_count(here(nested), (3,), 2) == sum(p.numel() for p in whole.parameters()) + 2 * 7 + 2
    check_model(Surrogate(model), (3,))
    other = build(here(nested), (3,), 2, seed=5)
    load_flat(other, flatten(model))
    assert torch.equal(other(inputs), model(inputs))


def test_its_heads_start_equal_and_are_two() -> None:
    model = build(here(pixels), (3, 6, 5), 2, seed=1)
    assert model.pixelwise
    with torch.no_grad():
        model.public_head.weight.add_(1.0)
    private, public = model.both(torch.randn(2, 3, 6, 5))
    assert private.shape == public.shape == (2, 2, 6, 5)
    assert not torch.equal(private, public)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (softmaxed, "layer '0' .Linear. is not what the module ends with"),
        (twice, "layer '1' .Linear. is not what the module ends with"),
        (headless, "no layer of the module .* with 2 outputs"),
        (bare, "no layer of the module"),
        (normed, "layer '1' .BatchNorm1d. changes its buffer '1.running_mean'"),
        (broken, "fails on inputs"),
        (raising, "KeyError"),
        (no_module, "gave a tuple"),
    ],
)
def test_what_is_no_such_network_is_refused(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        build(here(function), (3,), 2, seed=0)


@pytest.mark.parametrize("path", ["nowhere.at_all:net", f"{__name__}:nothing"])
def test_a_path_to_nothing_is_an_invalid_plan(path: str) -> None:
    with pytest.raises(InvalidPlan, match="there is no model"):
        build(path, (3,), 2, seed=0)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Mean(), r"layer '1\.0' .Mean. mixes the records"),
        (nn.Sequential(nn.BatchNorm1d(4)), r"layer '1\.0\.0' .BatchNorm1d. mixes the records"),
        (Noisy(), r"layer '1\.0' .Noisy. draws random numbers"),
        (nn.Linear(5, 4), r"layer '1\.0' .Linear. fails on inputs: "),
    ],
)
def test_a_layer_that_cannot_be_trained_record_by_record_is_named(layer: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        check_model(nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer), nn.Linear(4, 2)), (4,))


def test_dropout_is_no_mixing_and_stays_on() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    check_model(model, (4,))
    assert model[1].training


def test_a_study_runs_on_a_network_of_ones_own(study_with: Callable[..., Study]) -> None:
    from secure_fedhelp.learning.method import Site
    from secure_fedhelp.privacy.noise import SeededNoise

    study = study_with(method={"name": "fedavg"})
    path = here(nested)
    update = study.plan.channels[0].model_copy(update={"length": parameter_count(path, (5,), 2)})
    model = study.plan.model.model_copy(update={"small": path})
    plan = study.plan.model_copy(update={"model": model, "channels": (update,)})
    method = make_method(Site(plan, "beta", study.records["beta"], study.public, None, SeededNoise(b"x")))
    output = method.contribute(0)
    assert output.channels["model-update"].shape == (update.length,)
    assert np.isfinite(output.channels["model-update"]).all()
