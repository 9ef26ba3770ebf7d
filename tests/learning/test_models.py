"""Networks: the same everywhere from the same plan, and vectors that cannot be misread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from secure_fedhelp.errors import InvalidContribution, UnsupportedModel
from secure_fedhelp.learning.models import Surrogate, build, flatten, load_flat, parameter_count
from secure_fedhelp.privacy.training import check_model


def test_initial_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = flatten(build("mlp-8-4", (3,), 2, seed=5))
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, flatten(build("mlp-8-4", (3,), 2, seed=5)))
    assert not np.array_equal(first, flatten(build("mlp-8-4", (3,), 2, seed=6)))


def test_networks_built_at_once_get_the_weights_of_their_seed() -> None:
    expected = flatten(build("mlp-64-64", (30,), 2, seed=5))
    with ThreadPoolExecutor(8) as threads:
        built = list(threads.map(lambda _: flatten(build("mlp-64-64", (30,), 2, seed=5)), range(200)))
    assert all(np.array_equal(vector, expected) for vector in built)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("mlp-4", (3,), 2, 3 * 4 + 4 + 2 * (4 * 2 + 2)),
        ("mlp-4-5", (3,), 3, 3 * 4 + 4 + 4 * 5 + 5 + 2 * (5 * 3 + 3)),
        ("cnn-4", (1, 5, 5), 2, 25 * 4 + 4 + 8 + 2 * (4 * 9 * 2 + 2)),
        ("cnn-4-8", (3, 8, 8), 2, 75 * 4 + 4 + 8 + 9 * 32 + 8 + 16 + 2 * (8 * 4 * 2 + 2)),
    ],
)
def test_the_vectors_length_is_the_extractor_and_both_heads(
    name: str, shape: tuple[int, ...], classes: int, count: int
) -> None:
    assert parameter_count(name, shape, classes) == count
    outputs = build(name, shape, classes, seed=0)(torch.zeros(2, *shape))
    assert outputs.shape == (2, classes)


def test_flattening_and_loading_are_inverse() -> None:
    source, target = build("cnn-4-8", (1, 8, 8), 2, seed=1), build("cnn-4-8", (1, 8, 8), 2, seed=2)
    load_flat(target, flatten(source))
    np.testing.assert_array_equal(flatten(target), flatten(source))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(source(x), target(x))
    with pytest.raises(InvalidContribution, match="parameters"):
        load_flat(target, np.zeros(3))


def test_heads_start_equal_and_then_go_their_own_ways() -> None:
    model = build("mlp-4", (3,), 2, seed=1)
    x = torch.randn(5, 3)
    private, public = model.both(x)
    assert torch.equal(private, public)
    with torch.no_grad():
        model.public_head.weight.add_(1.0)
    private, public = model.both(x)
    assert not torch.equal(private, public)
    assert torch.equal(model(x), private)
    assert torch.equal(Surrogate(model)(x), private)
    model.adopt_public_head()
    assert torch.equal(model(x), public)


@pytest.mark.parametrize(
    "name", ["mlp", "mlp-", "mlp-0", "mlp-4--4", "mlp-x", "lstm-4", "", "cnn-4", "resnet-small", "unet-small"]
)
def test_unknown_networks_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="no network"):
        build(name, (3,), 2, seed=0)


@pytest.mark.parametrize("shape", [(3,), (1, 15, 16), (1, 16, 15)])
def test_an_input_too_small_for_a_u_net_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedModel, match="no network 'unet-small'"):
        build("unet-small", shape, 2, seed=0)


def test_group_normalisation_needs_channels_by_four() -> None:
    with pytest.raises(UnsupportedModel):
        build("cnn-6", (1, 8, 8), 2, seed=0)


SIZES = [("resnet-small", 24_636), ("resnet-large", 97_140), ("monai-resnet10", 307_988)]


@pytest.mark.parametrize(("name", "count"), SIZES)
def test_monais_residual_networks_have_no_trap_left(name: str, count: int) -> None:
    """MONAI gives its blocks BatchNorm whatever norm is asked for, and adds in place."""
    model = build(name, (1, 28, 28), 2, seed=0)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 2)
    assert not [*model.named_buffers()], "a buffer does not travel with the parameters"
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    check_model(Surrogate(model), (1, 28, 28))


@pytest.mark.parametrize(("name", "shape"), [("unet-small", (3, 16, 16)), ("unet-large", (1, 17, 21))])
def test_u_nets_answer_every_pixel(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 3, seed=0)
    assert model.pixelwise
    assert model(torch.zeros(2, *shape)).shape == (2, 3, *shape[1:])
    private, public = model.both(torch.randn(2, *shape))
    assert torch.equal(private, public)
    check_model(Surrogate(model), shape)
    assert not build("cnn-4", (1, 8, 8), 2, seed=0).pixelwise


def test_a_large_u_net_is_twice_as_wide() -> None:
    def channels(name: str) -> list[int]:
        return [m.out_channels for m in build(name, (3, 16, 16), 2, 0).extractor.modules() if isinstance(m, nn.Conv2d)]

    assert channels("unet-large") == [2 * n for n in channels("unet-small")]
