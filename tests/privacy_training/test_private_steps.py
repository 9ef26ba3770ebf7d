"""DP-SGD: one patient's influence is bounded, nothing depends on how many there are, and every step is noisy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidContribution, UnsupportedModel
from secure_fedhelp.learning.models import Surrogate, build, flatten
from secure_fedhelp.privacy import training
from secure_fedhelp.privacy.gradients import BookKeeping, Explicit, Gradients, OpacusHooks, OuterProducts
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.noise import NoiseName, SeededNoise, SystemNoise
from secure_fedhelp.privacy.training import check_model, draw_records, train_private
from secure_fedhelp.study.sections import PrivacySection


class Scripted:
    """A noise source that hands out chosen patients and chosen noise, and remembers what it was asked for."""

    name: NoiseName = "seeded-research"

    def __init__(self, drawn: list[list[int]], value: float = 0.0) -> None:
        self.drawn, self.value = list(drawn), value
        self.asked: list[tuple[tuple[int, ...], float]] = []
        self.rates: list[tuple[int, float]] = []
        self.places = np.random.default_rng(3)

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        assert isinstance(shape, tuple)
        self.asked.append((shape, standard_deviation))
        return np.full(shape, self.value)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        self.rates.append((count, rate))
        mask = np.zeros(count, dtype=np.bool_)
        mask[self.drawn.pop(0)] = True
        return mask

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self.places.random(count)


def privacy(**changes: float) -> PrivacySection:
    values = {"sampling_rate": 0.5, "noise_multiplier": 1.5, "clipping_norm": 0.1, "steps": 1}
    return PrivacySection.model_validate(values | {"epsilon": 3.0, "delta": 1e-4} | changes)


def some_records(n: int = 8, patients: list[str] | None = None, shape: tuple[int, ...] = (1, 8, 8)) -> Records:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(n, *shape)).astype(np.float32) * np.linspace(0.1, 5, n)[:, None, None, None]
    labels = np.arange(n, dtype=np.int64) % 2
    return Records(inputs.astype(np.float32), labels, tuple(patients or [f"p{i}" for i in range(n)]))


def model() -> Surrogate:
    return Surrogate(build("cnn-4-8", (1, 8, 8), 2, seed=3))


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def train(net: nn.Module, records: Records, noise: object, nominal: int = 10, rate: float = 1.0, **p: float) -> object:
    return train_private(net, loss, records, privacy(**p), nominal, rate, noise)  # type: ignore[arg-type]


def clipped_sum(net: nn.Module, records: Records, indices: list[int], norm: float) -> NDArray[np.float64]:
    """The reference: one record after another, plain autograd, each gradient clipped as a whole."""
    total = np.zeros(len(flatten(net)))
    for i in indices:
        net.zero_grad()
        output = net(torch.from_numpy(records.inputs[i : i + 1]))
        loss(output, torch.from_numpy(records.labels[i : i + 1])).sum().backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in net.parameters() if p.grad is not None])
        total += gradient * min(1.0, norm / float(np.linalg.norm(gradient)))
    return total


@pytest.mark.parametrize("norm", [0.1, 2.0, 1e6])
def test_a_step_is_the_sum_of_gradients_clipped_one_by_one(norm: float) -> None:
    records, net = some_records(), model()
    before = flatten(net)
    expected = clipped_sum(model(), records, [1, 4, 6, 7], norm) / (0.5 * 10)
    train(net, records, Scripted([[1, 4, 6, 7]]), clipping_norm=norm)
    np.testing.assert_allclose(before - flatten(net), expected, atol=2e-6)


def test_one_patient_moves_the_model_by_at_most_the_clipping_norm() -> None:
    records = some_records()
    wild = Records(records.inputs * np.float32(1e6), records.labels, records.patients)
    with_patient, without = model(), model()
    train(with_patient, wild, Scripted([[0, 3, 7]]), nominal=2, clipping_norm=0.1)
    train(without, wild, Scripted([[0, 3]]), nominal=2, clipping_norm=0.1)
    moved = np.linalg.norm(flatten(with_patient) - flatten(without))
    assert 0.05 < moved <= 0.1 * (1 + 1e-5)


class Standardises(nn.Module):
    """Divides each record by its own spread, as many pipelines do: a blank image gives NaN."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return torch.as_tensor(self.inner(inputs / flat.std(dim=1).view(-1, 1, 1, 1)))


@pytest.mark.parametrize("way", [BookKeeping, OpacusHooks])
def test_a_patient_whose_gradient_is_none_adds_nothing_and_silences_nobody(
    way: type[Gradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN passes every clipping factor. A hospital that goes silent because of one patient has told who is there."""
    monkeypatch.setattr(training, "choose", lambda *_: way)
    blank = some_records()
    blank.inputs[3] = 0.0
    with_patient, without = Standardises(model()), Standardises(model())
    train(with_patient, blank, Scripted([[0, 3, 7]]))
    train(without, blank, Scripted([[0, 7]]))
    assert np.isfinite(flatten(with_patient)).all()
    np.testing.assert_allclose(flatten(with_patient), flatten(without), atol=1e-7)
    alone = Standardises(model())
    before = flatten(alone)
    train(alone, blank, Scripted([[3]]))
    np.testing.assert_array_equal(flatten(alone), before)


def test_an_infinite_gradient_adds_nothing() -> None:
    values = torch.tensor([[1.0, 2.0], [torch.inf, 0.0], [3.0, torch.nan]])
    weights = torch.tensor([0.5, 0.0, 0.0])
    np.testing.assert_array_equal(Explicit(values).weighted_sum(weights), [0.5, 1.0])
    product = OuterProducts(values, torch.ones(3, 1))
    np.testing.assert_array_equal(product.weighted_sum(weights), [[0.5], [1.0]])
    assert not torch.isfinite(product.norms()[1:]).any()


def test_a_model_that_mixes_only_certain_records_is_named_after_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial went well, so this is of these patients: what was spent by then has to be paid."""

    def mixing(self: object, losses: Tensor) -> None:
        raise UnsupportedModel("a layer was used twice in one pass, or not at all")

    net = model()
    check_model(net, (1, 8, 8))
    monkeypatch.setattr(BookKeeping, "backward", mixing)
    with pytest.raises(InvalidContribution, match="used twice"):
        train(net, some_records(), Scripted([[1]]))


def test_a_large_batch_in_parts_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    records, whole, parts = some_records(), model(), model()
    train(whole, records, Scripted([[0, 1, 2, 3, 4, 5, 6]], value=0.3))
    monkeypatch.setattr(training, "PHYSICAL_BATCH", 3)
    noise = Scripted([[0, 1, 2, 3, 4, 5, 6]], value=0.3)
    train(parts, records, noise)
    np.testing.assert_allclose(flatten(parts), flatten(whole), atol=1e-6)
    assert len(noise.asked) == 1, "noise is added once a step, not once a part"


def test_noise_has_the_plans_scale_and_reaches_every_parameter() -> None:
    net = model()
    noise = Scripted([[]], value=1.0)
    before = flatten(net)
    train(net, some_records(), noise, nominal=10, noise_multiplier=1.5, clipping_norm=0.1)
    assert noise.asked == [((len(before),), pytest.approx(0.15))]
    np.testing.assert_allclose(before - flatten(net), np.full_like(before, 1.0 / 5), atol=1e-6)


def test_measured_noise_of_an_empty_step_is_gaussian_of_that_scale() -> None:
    net = Surrogate(build("mlp-200", (30,), 2, seed=1))
    before = flatten(net)
    records = Records(np.zeros((3, 30), dtype=np.float32), np.asarray([0, 1, 0]), ("a", "b", "c"))
    section = privacy(sampling_rate=1e-9, noise_multiplier=2.0, clipping_norm=3.0)
    train_private(net, loss, records, section, 10**9, 1.0, SeededNoise(b"n"))
    drawn = (before - flatten(net)) / 6.0
    assert abs(drawn.std() - 1) < 0.03
    assert abs(drawn.mean()) < 0.05


def test_no_two_parameters_share_their_noise() -> None:
    """One draw is cut into all parameters' noise: layers of one shape must not get the same piece."""
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    before = flatten(net)
    records = Records(np.zeros((3, 40), dtype=np.float32), np.asarray([0, 1, 0]), ("a", "b", "c"))
    train_private(net, loss, records, privacy(sampling_rate=1e-9), 10**9, 1.0, SeededNoise(b"two"))
    first, second = np.split(before - flatten(net), 2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(first))


def test_a_sum_gets_its_noise_once() -> None:
    """Two noisy copies of one clipped sum would be two releases of it, and the accountant is told of one."""
    net = model()
    optimizer = training.NoisyOptimizer(
        torch.optim.SGD(net.parameters(), lr=1.0),
        noise=SystemNoise(),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=1,
    )
    for p in optimizer.params:
        p.summed_grad = torch.zeros_like(p)
    optimizer.add_noise()
    with pytest.raises(ValueError, match="haven't been cleared"):
        optimizer.add_noise()


def test_an_empty_step_still_counts_and_is_still_noisy() -> None:
    net = model()
    before = flatten(net)
    event = train(net, some_records(), Scripted([[], [2], []], value=0.5), steps=3)
    assert event == planned_event(privacy(steps=3))
    assert np.all(before != flatten(net))


def test_the_denominator_never_depends_on_the_private_count() -> None:
    """Twice the patients, the same ones drawn: the same step. A mean over the batch or the data would differ."""
    few, many = some_records(4), some_records(8)
    many = Records(np.concatenate([few.inputs, few.inputs]), np.concatenate([few.labels] * 2), many.patients)
    one, two = model(), model()
    train(one, few, Scripted([[1, 2]], value=0.2))
    train(two, many, Scripted([[1, 2]], value=0.2))
    np.testing.assert_array_equal(flatten(one), flatten(two))
    three = model()
    train(three, few, Scripted([[1, 2]], value=0.2), nominal=20)
    start = flatten(model())
    np.testing.assert_allclose(flatten(three) - start, (flatten(one) - start) / 2, atol=1e-6)


def test_patients_are_drawn_at_the_plans_rate_and_bring_one_record_each() -> None:
    records = some_records(8, ["a", "a", "a", "b", "b", "c", "d", "d"])
    noise = Scripted([[0, 1, 3]] * 50)
    seen = set()
    for _ in range(50):
        chosen = draw_records(records, 0.25, noise)
        assert [records.patients[i] for i in chosen] == ["a", "b", "d"]
        seen.update(chosen.tolist())
    assert noise.rates == [(4, 0.25)] * 50, "the coins are tossed for four patients, not for eight records"
    assert seen == {0, 1, 2, 3, 4, 6, 7}, "every record of a drawn patient has its chance"


def test_whether_one_patient_is_drawn_says_nothing_about_the_records_of_others() -> None:
    # With picks from one running stream a drawn patient would shift everybody's after: far more than one clipped
    # gradient of difference. Here each of two patients' picks must be even, and independent of who came before.
    records = some_records(6, ["a", "a", "b", "b", "c", "c"])
    seen = {with_a: np.zeros((2, 2)) for with_a in (True, False)}
    for _ in range(4000):
        chosen = draw_records(records, 0.5, SystemNoise()).tolist()
        if {2, 3} & set(chosen) and {4, 5} & set(chosen):
            seen[bool({0, 1} & set(chosen))][int(3 in chosen), int(5 in chosen)] += 1
    for counts in seen.values():
        expected = counts.sum() / 4
        assert expected > 80
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 27.9, "three degrees of freedom, one false alarm in 250,000"


def test_the_same_seeded_noise_repeats_a_run_and_another_does_not() -> None:
    results = []
    for seed in (b"a", b"a", b"b"):
        net = model()
        train(net, some_records(), SeededNoise(seed), steps=2)
        results.append(flatten(net))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_no_private_gradient_stays_behind() -> None:
    net = model()
    train(net, some_records(), SeededNoise(b"x"), steps=2)
    for p in net.parameters():
        assert p.grad is None
        assert not hasattr(p, "grad_sample")
        assert not hasattr(p, "summed_grad")
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


def test_a_loss_that_averages_over_the_batch_is_refused() -> None:
    def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels)

    with pytest.raises(ValueError, match="one value a record"):
        train_private(model(), mean_loss, some_records(), privacy(), 10, 1.0, Scripted([[1, 2]]))


def test_divergence_is_named_before_anything_is_released() -> None:
    with pytest.raises(InvalidContribution, match="diverged"):
        train(model(), some_records(), Scripted([[1]], value=float("nan")))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.used(inputs))


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), "'1' .BatchNorm1d. mixes"),
        (Unused(), "spare.weight"),
        (nn.Sequential(nn.Linear(4, 4), nn.InstanceNorm1d(4, track_running_stats=True)), "running_mean"),
    ],
)
def test_models_that_mix_records_are_refused_and_the_layer_is_named(net: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        check_model(net, (4,))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp-8-4", (5,)),
        ("cnn-4-8", (1, 9, 9)),
        ("cnn-4", (3, 6, 7)),
        ("resnet-small", (1, 12, 10)),
        ("resnet-large", (3, 9, 9)),
        ("monai-resnet10", (1, 8, 8)),
        ("unet-small", (3, 16, 17)),
        ("unet-large", (1, 16, 16)),
    ],
)
def test_models_of_the_catalogue_are_accepted_in_any_mode_and_train_fast(name: str, shape: tuple[int, ...]) -> None:
    net = Surrogate(build(name, shape, 3, seed=0)).eval()
    assert check_model(net, shape) is BookKeeping
