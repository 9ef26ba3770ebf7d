"""However fast it is found, the clipped sum is a loop over records: one gradient each, clipped as a whole, added up."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.learning.alignment import AlignedLoss, seesaw_weights
from secure_fedhelp.learning.methods import prr
from secure_fedhelp.learning.methods.fedhelp import twin_losses
from secure_fedhelp.learning.models import Surrogate, build, flatten, load_flat
from secure_fedhelp.learning.stages import Stage
from secure_fedhelp.learning.task import Task
from secure_fedhelp.learning.twin import Twin
from secure_fedhelp.privacy import choosing, gradients, training
from secure_fedhelp.privacy.choosing import choose
from secure_fedhelp.privacy.gradients import (
    BookKeeping,
    Explicit,
    Gradients,
    OpacusHooks,
    OuterProducts,
    RecordByRecord,
    attached,
)
from secure_fedhelp.privacy.noise import SystemNoise
from secure_fedhelp.privacy.training import NoisyOptimizer, RecordLoss
from secure_fedhelp.study.methods import FedHelp

Case = tuple[nn.Module, tuple[int, ...], RecordLoss]


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(1), labels, reduction="none")


def network(name: str, shape: tuple[int, ...]) -> Case:
    return Surrogate(build(name, shape, 3, seed=2)), shape, cross_entropy


def twin(small: str, large: str, shape: tuple[int, ...]) -> Case:
    pair = (build(name, shape, 3, seed=seed) for seed, name in enumerate((small, large)))
    task = Task(torch.tensor([0.1, -0.2, 0.1]))
    return Twin(*pair), shape, twin_losses(task, FedHelp(twin=True, ranking_weight=2.0), 2.0)


def prr_twin(stage: Stage, small: str, large: str, shape: tuple[int, ...]) -> Case:
    """PRR's deputy and personal model in a stage, on the aligned loss: its constants are another for each class."""
    pair = (build(name, shape, 3, seed=seed) for seed, name in enumerate((small, large)))
    task = AlignedLoss(seesaw_weights(np.array([30.0, 4.0, 9.0]), 0.8), np.array([1.0, 2.5, 0.8]))
    return Twin(*pair), shape, prr.twin_losses(stage, task, 2.0)


def odd_convolutions() -> Case:
    net = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1, bias=False),
        nn.Flatten(),
        nn.Linear(3 * 7 * 3, 3, bias=False),
    )
    return net, (2, 7, 7), cross_entropy


COVERED = {
    "mlp": lambda: network("mlp-9-5", (7,)),
    "cnn": lambda: network("cnn-8-16-20", (1, 13, 11)),
    "cnn-of-colours": lambda: network("cnn-4-8", (3, 9, 8)),
    "odd-convolutions": odd_convolutions,
    "resnet": lambda: network("resnet-small", (1, 12, 10)),
    "u-net": lambda: network("unet-small", (3, 16, 17)),
    "twin-mlp": lambda: twin("mlp-6", "mlp-12-8", (7,)),
    "twin-cnn": lambda: twin("cnn-4-8", "cnn-8-16-32", (1, 12, 12)),
    "prr-recovers": lambda: prr_twin(Stage.RECOVER, "mlp-6", "mlp-12-8", (7,)),
    "prr-exchanges": lambda: prr_twin(Stage.EXCHANGE, "cnn-4-8", "cnn-8-16-32", (1, 12, 12)),
    "prr-sublimates": lambda: prr_twin(Stage.SUBLIMATE, "mlp-6", "mlp-12-8", (7,)),
}
TWINS = [name for name in COVERED if name.startswith(("twin", "prr"))]


def some(shape: tuple[int, ...], count: int = 6) -> tuple[Tensor, Tensor]:
    """Records of very different sizes, so that some are clipped and some are not."""
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(count, *shape)) * np.geomspace(0.05, 20, count).reshape(-1, *[1] * len(shape))
    return torch.from_numpy(inputs.astype(np.float32)), torch.arange(count) % 3


def by_loop(case: Case, inputs: Tensor, labels: Tensor, norm: float) -> tuple[Tensor, int]:
    """The reference, float64: plain autograd on one record after another. Also how many were clipped."""
    model, loss = copy.deepcopy(case[0]), case[2]
    parameters, clipped = list(model.parameters()), 0
    total = np.zeros(sum(p.numel() for p in parameters))
    for i in range(len(inputs)):
        value = loss(model(inputs[i : i + 1]), labels[i : i + 1]).sum()
        parts = torch.autograd.grad(value, parameters)
        gradient = np.concatenate([part.numpy().ravel().astype(np.float64) for part in parts])
        length = np.sqrt((gradient**2).sum())
        clipped += length > norm
        total += gradient * min(1.0, norm / length)
    return torch.from_numpy(total), clipped


def clipped_sum(way: type[Gradients], case: Case, inputs: Tensor, labels: Tensor, norm: float) -> Tensor:
    model, _, loss = case
    with attached(way, model) as found:
        optimizer = NoisyOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0),
            noise=SystemNoise(),
            noise_multiplier=1.0,
            max_grad_norm=norm,
            expected_batch_size=1,
        )
        found.backward(loss(found(inputs), labels))
        optimizer.clip_and_accumulate()
        return torch.cat([p.summed_grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("way", [BookKeeping, OpacusHooks])
@pytest.mark.parametrize("name", COVERED)
def test_the_clipped_sum_is_a_loop_over_records(name: str, way: type[Gradients]) -> None:
    counts = set()
    for norm in (1e-3, 1.0, 1e6):
        case = COVERED[name]()
        inputs, labels = some(case[1])
        expected, clipped = by_loop(case, inputs, labels, norm)
        counts.add(clipped)
        found = clipped_sum(way, case, inputs, labels, norm)
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-6 * norm * (norm < 1)
    assert {0, len(inputs)} <= counts, "all were clipped once, and none once"


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_clipped_as_one(name: str) -> None:
    """Clipped apart, proxy and large model would move by sqrt(2) clipping norms together."""
    case = COVERED[name]()
    inputs, labels = some(case[1])
    found = clipped_sum(BookKeeping, case, inputs[-1:], labels[-1:], 0.01)
    assert float(found.norm()) == pytest.approx(0.01, rel=1e-3)
    halves = [sum(p.numel() for p in half.parameters()) for half in (case[0].leaves, case[0].stays)]  # type: ignore[union-attr]
    assert all(float(half.norm()) < 0.00999 for half in torch.split(found, halves))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("name", ["cnn", "cnn-of-colours", "twin-cnn"])
def test_no_record_counts_for_more_than_the_norm_even_where_terms_cancel(name: str, offset: float) -> None:
    """Bright images under GroupNorm: a norm from products of places would lose all its digits here."""
    case = COVERED[name]()
    inputs, labels = some(case[1])
    for i in range(len(inputs)):
        found = clipped_sum(BookKeeping, COVERED[name](), inputs[i : i + 1] + offset, labels[i : i + 1], 1e-3)
        assert float(found.double().norm()) <= 1e-3 * (1 + 1e-5)


@pytest.mark.parametrize("way", [BookKeeping, OpacusHooks])
def test_every_way_goes_on_step_after_step_and_past_a_draw_of_nobody(
    way: type[Gradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients that were left from the step before, or of a step's other part, would count twice."""
    monkeypatch.setattr(training, "PHYSICAL_BATCH", 2)
    (model, shape, loss), reference = COVERED["cnn-of-colours"](), COVERED["cnn-of-colours"]()
    inputs, labels = some(shape)
    records = Records(inputs.numpy(), labels.numpy(), tuple(f"p{i}" for i in range(len(inputs))))
    expected = flatten(model)
    with attached(way, model) as found:
        optimizer = NoisyOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1),
            noise=SystemNoise(),
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            expected_batch_size=2,
        )
        for chosen in ([0, 4, 5], [], [1, 2, 3, 5, 0]):
            if chosen:
                load_flat(reference[0], expected)
                expected = expected - 0.1 / 2 * by_loop(reference, inputs[chosen], labels[chosen], 1.0)[0].numpy()
            training._step(found, optimizer, loss, records, np.array(chosen, dtype=np.int64))
            np.testing.assert_allclose(flatten(model), expected, atol=1e-5)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_outer_products_are_what_they_stand_for(b: int, o: int, i: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right, weights = (torch.from_numpy(rng.normal(size=shape)) for shape in ((b, o), (b, i), (b,)))
    short, long = OuterProducts(left, right), Explicit(left[:, :, None] * right[:, None, :])
    torch.testing.assert_close(short.norms(), long.norms())
    torch.testing.assert_close(short.weighted_sum(weights), long.weighted_sum(weights))


# -- a way that is not right is not chosen ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", COVERED)
def test_the_studies_networks_get_the_fast_way(name: str) -> None:
    model, shape, _ = COVERED[name]()
    assert choose(model, shape) is BookKeeping


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(torch.tanh(self.layer(torch.tanh(self.layer(inputs))))))


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 3))


class Scaled(nn.Linear):
    """A linear layer by name and by fields, which computes something else."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(super().forward(inputs) * 2)


SLOW = {
    "a layer used twice": (Twice(), (4,)),
    "a parameter of two layers": (tied(), (4,)),
    "a layer without a formula": (nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 3)), (4,)),
    "a linear layer on places": (nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 3)), (5, 4)),
    "a convolution in groups": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()), (4, 5, 5)),
    "a transposed convolution": (nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Flatten()), (2, 4, 4)),
    "a subclass": (nn.Sequential(Scaled(4, 3)), (4,)),
}


@pytest.mark.parametrize("name", SLOW)
def test_what_the_fast_way_does_not_cover_goes_the_slow_one_and_is_right(name: str) -> None:
    model, shape = SLOW[name]
    assert choose(model, shape) is OpacusHooks
    case = (model, shape, cross_entropy)
    inputs, labels = some(shape)
    expected, _ = by_loop(case, inputs, labels, 1.0)
    found = clipped_sum(OpacusHooks, case, inputs, labels, 1.0)
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


class Centred(nn.Module):
    """Each record's answer depends on who is beside it, and no layer's type says so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.layer(inputs)
        return torch.as_tensor(self.last(torch.tanh(hidden - hidden.mean(dim=0))))


class UsedOutside(nn.Module):
    """A weight that is used as a layer and as a tensor: hooks see the first use only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(torch.tanh(self.layer(inputs)) @ self.layer.weight))


class Random(nn.Module):
    """Random numbers that no layer's type shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 30)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(inputs), 0.5, training=True)


class Numbers(nn.Module):
    """Random numbers that PyTorch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rng = nn.Linear(4, 3), np.random.default_rng(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(inputs) * float(self.rng.normal()))


@pytest.mark.parametrize(
    ("model", "words"),
    [(Centred(), "mixes the records"), (Random(), "draws random numbers"), (Numbers(), "twice differently")],
    ids=["mean over the batch", "random", "random by numpy"],
)
def test_where_no_way_is_right_the_model_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        choose(model, (4,))


def test_a_weight_that_is_used_outside_of_its_layer_goes_record_by_record() -> None:
    assert choose(UsedOutside(), (4,)) is RecordByRecord


@pytest.mark.parametrize("broken", ["_linear", "_conv2d"])
def test_a_formula_that_is_wrong_is_found_out(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, kind = getattr(gradients, broken), {"_linear": nn.Linear, "_conv2d": nn.Conv2d}[broken]

    def doubled(layer: nn.Module, inputs: Tensor, backprops: Tensor) -> object:
        return real(layer, inputs * 1.01, backprops)

    monkeypatch.setitem(gradients._FORMULAS, kind, doubled)
    monkeypatch.setattr(choosing, "_CHOSEN", {})
    model, shape, _ = COVERED["cnn-of-colours"]()
    assert choose(model, shape) is OpacusHooks


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.skip = nn.Linear(4, 4), nn.Linear(4, 4), False

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return hidden if self.skip else torch.as_tensor(self.second(hidden))


def test_a_layer_left_out_of_a_pass_stops_the_training() -> None:
    model = Skips()
    assert choose(model, (4,)) is BookKeeping
    model.skip = True
    with attached(BookKeeping, model) as found, pytest.raises(UnsupportedModel, match="not at all"):
        found.backward(found(torch.ones(2, 4)).sum(dim=1))


def test_the_trial_is_made_once_for_a_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[nn.Module] = []
    real = choosing._tried

    def counted(model: nn.Module, shape: tuple[int, ...]) -> type[Gradients]:
        tried.append(model)
        return real(model, shape)

    monkeypatch.setattr(choosing, "_tried", counted)
    monkeypatch.setattr(choosing, "_CHOSEN", {})
    for seed in range(3):
        choose(Surrogate(build("mlp-6", (5,), 2, seed)), (5,))
    assert len(tried) == 1
    for seed in range(3):
        choose(Surrogate(build("resnet-small", (1, 12, 12), 2, seed)), (1, 12, 12))
    assert len(tried) == 2, "a class that is made anew for each model would be tried each round"
    choose(nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4)), (4,))
    choose(nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(1, 4)), (4,))
    choose(nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(1, 4, eps=0.1)), (4,))
    assert len(tried) == 5
    with pytest.raises(UnsupportedModel):
        choose(Centred(), (4,))
    with pytest.raises(UnsupportedModel):
        choose(Centred(), (4,))
    assert len(tried) == 7, "a refusal is not remembered as a right way"


def test_nothing_private_stays_when_a_step_fails() -> None:
    model, shape, loss = COVERED["mlp"]()
    inputs, labels = some(shape)

    def fails() -> None:
        with attached(BookKeeping, model) as found:
            kept.append(found)
            found.backward(loss(found(inputs), labels))
            found(inputs)
            raise RuntimeError("in the middle")

    kept: list[Gradients] = []
    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    assert not kept[0]._seen  # type: ignore[attr-defined]
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
