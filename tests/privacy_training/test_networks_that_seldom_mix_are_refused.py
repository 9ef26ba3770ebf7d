"""Networks that keep records apart on usual inputs, at their first weights or in a small batch, and not always."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidContribution, UnsupportedModel
from secure_fedhelp.privacy.gradients import BookKeeping, OpacusHooks, attached
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.structure import structure
from secure_fedhelp.privacy.training import check_model, train_private
from secure_fedhelp.study.sections import PrivacySection

SHAPE = (6,)
#: Of a network (with layers ``first`` and ``last``) and inputs: its answer.
Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, forward: Forward, **held: object) -> None:
        super().__init__()
        self.first, self.last, self._forward = nn.Linear(6, 8), nn.Linear(8, 3), forward
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._forward(self, inputs)

    def hidden(self, inputs: Tensor) -> Tensor:
        return torch.tanh(torch.as_tensor(self.first(inputs)))

    def rest(self, hidden: Tensor) -> Tensor:
        return torch.as_tensor(self.last(hidden))


def centred(hidden: Tensor) -> Tensor:
    return hidden - hidden.mean(dim=0)


def in_larger_batches(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.hidden(inputs)
    return net.rest(centred(hidden) if len(inputs) > 2 else hidden)


def in_groups_of_four(net: Net, inputs: Tensor) -> Tensor:
    hidden, size = net.hidden(inputs), 4 if len(inputs) % 4 == 0 else 1
    groups = hidden.view(-1, size, 8)
    return net.rest((groups - groups.mean(dim=1, keepdim=True)).view(-1, 8))


def by_the_largest_value(net: Net, inputs: Tensor) -> Tensor:
    return net.rest(net.hidden(inputs / 255 if inputs.max() > 50 else inputs))


def by_the_least_value(net: Net, inputs: Tensor) -> Tensor:
    return net.rest(net.hidden(torch.where(inputs.min() < -10, inputs.clamp(min=0), inputs)))


def by_an_empty_record(net: Net, inputs: Tensor) -> Tensor:
    return net.rest(net.hidden(inputs + 1 if (inputs == 0).all(dim=1).any() else inputs))


def cut_at_the_batch_median(net: Net, inputs: Tensor) -> Tensor:
    limit = 1e6 * inputs.abs().median()
    return net.rest(net.hidden(inputs.clamp(-limit, limit)))


def sorted_by_length(net: Net, inputs: Tensor) -> Tensor:
    order = (inputs != 0).sum(dim=1).argsort(descending=True, stable=True)
    return net.rest(net.hidden(inputs[order])[order.argsort()])


def behind_a_closed_gate(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.hidden(inputs)
    return net.rest(hidden + net.gate * centred(hidden))


def behind_two_closed_layers(net: Net, inputs: Tensor) -> Tensor:
    hidden, one, two = net.hidden(inputs), net.get_submodule("one"), net.get_submodule("two")
    return net.rest(hidden + torch.as_tensor(two(one(centred(hidden)))))


def zeros() -> nn.Linear:
    layer = nn.Linear(8, 8, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def remembering(net: Net, inputs: Tensor) -> Tensor:
    hidden, mean = net.hidden(inputs), net.mean
    net.mean = (1 - 1e-7) * mean + 1e-7 * hidden.detach().mean(dim=0)
    return net.rest(hidden - mean)


def remembering_in_a_frozen_parameter(net: Net, inputs: Tensor) -> Tensor:
    hidden, mean = net.hidden(inputs), net.mean.clone()
    net.mean.data.lerp_(hidden.detach().mean(dim=0), 1e-7)
    return net.rest(hidden - mean)


def moving_its_own_weights(net: Net, inputs: Tensor) -> Tensor:
    net.first.weight.data.mul_(1 - 1e-6 * float(inputs.mean().sigmoid()))
    return net.rest(net.hidden(inputs))


def counting(net: Net, inputs: Tensor) -> Tensor:
    net.passes: int = net.passes + 1
    hidden = net.hidden(inputs)
    return net.rest(centred(hidden) if net.passes > 1000 else hidden)


def collecting(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.hidden(inputs)
    net.bank.append(hidden.detach().mean(dim=0))
    return net.rest(hidden - net.bank[-2] if len(net.bank) > 1000 else hidden)


MIXING: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "larger batches": (lambda: Net(in_larger_batches), "mixes"),
    "groups of four": (lambda: Net(in_groups_of_four), "mixes"),
    "the largest value": (lambda: Net(by_the_largest_value), "mixes"),
    "the least value": (lambda: Net(by_the_least_value), "mixes"),
    "an empty record": (lambda: Net(by_an_empty_record), "mixes"),
    "a cut at the median": (lambda: Net(cut_at_the_batch_median), "mixes"),
    "an order by length": (lambda: Net(sorted_by_length), "'first' .* mixes"),
    "a gate": (lambda: Net(behind_a_closed_gate, gate=nn.Parameter(torch.zeros(1))), "mixes"),
    "a gate for clean records": (
        lambda: Net(
            lambda net, inputs: behind_a_closed_gate(net, torch.nan_to_num(inputs)), gate=nn.Parameter(torch.zeros(1))
        ),
        "mixes",
    ),
    "two closed layers": (lambda: Net(behind_two_closed_layers, one=zeros(), two=zeros()), "mixes"),
    "a mean that is kept": (lambda: Net(remembering, mean=torch.zeros(8)), "twice differently"),
    "a frozen mean": (
        lambda: Net(remembering_in_a_frozen_parameter, mean=nn.Parameter(torch.zeros(8), requires_grad=False)),
        "changes its parameter 'mean'",
    ),
    "weights of its own": (lambda: Net(moving_its_own_weights), "changes its parameter 'first.weight'"),
    "a count of passes": (lambda: Net(counting, passes=0), "attribute 'passes' with each pass"),
    "a growing bank": (lambda: Net(collecting, bank=[]), "attribute 'bank' with each pass"),
    "its inputs": (lambda: Net(lambda net, inputs: net.rest(net.hidden(inputs.mul_(2)))), "writes into its inputs"),
    "compiled code": (lambda: torch.jit.script(nn.Linear(6, 3)), "TorchScript"),
}


@pytest.mark.parametrize("name", MIXING)
def test_records_that_mix_now_and_then_are_refused(name: str) -> None:
    make, words = MIXING[name]
    with pytest.raises(UnsupportedModel, match=words):
        check_model(make(), SHAPE)


def with_settings(net: Net, inputs: Tensor) -> Tensor:
    hidden = net.hidden(inputs)
    return net.rest(centred(hidden) if net.settings["mix"] else hidden)


def through(mix: bool) -> Callable[[Tensor], Tensor]:
    return lambda hidden: centred(hidden) if mix else hidden


def hooked(mix: bool) -> nn.Module:
    net = Net(lambda net, inputs: net.rest(net.hidden(inputs)))
    net.first.register_forward_hook(lambda _, __, answer: centred(answer) if mix else answer)
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda mix: Net(with_settings, settings={"mix": mix}),
        lambda mix: Net(lambda net, inputs: net.rest(net.way(net.hidden(inputs))), way=through(mix)),
        hooked,
    ],
    ids=["a dictionary", "a function", "a hook"],
)
def test_one_trial_does_not_serve_a_network_with_other_settings(make: Callable[[bool], nn.Module]) -> None:
    assert check_model(make(False), SHAPE) is BookKeeping
    assert check_model(make(False), SHAPE) is BookKeeping
    with pytest.raises(UnsupportedModel, match="mixes"):
        check_model(make(True), SHAPE)


def test_frozen_values_are_settings_too() -> None:
    def masked(value: float) -> nn.Module:
        net = Net(in_larger_batches)
        net.register_buffer("mask", torch.tensor(value))
        net.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        return net

    assert structure(masked(0.0)) is not None
    assert structure(masked(0.0)) == structure(masked(0.0)) != structure(masked(1.0))
    other = masked(0.0)
    with torch.no_grad():
        other.frozen[0] = 2.0  # type: ignore[operator, index]
    assert structure(other) != structure(masked(0.0))


def test_what_nobody_can_tell_apart_is_tried_each_time() -> None:
    assert structure(Net(in_larger_batches, settings=object())) is None


def some_rows_twice(net: Net, inputs: Tensor) -> Tensor:
    hidden = torch.relu_(torch.as_tensor(net.first(inputs)))
    picked, more = inputs[:, 0] > 3, torch.zeros_like(hidden)
    if picked.any():
        more[picked] = torch.as_tensor(net.first(inputs[picked]))
    return net.rest(hidden + more)


def tied_behind_a_head_of_zeros(net: Net, inputs: Tensor) -> Tensor:
    """Book-keeping does not see the second use of the weight, and behind zeros no gradient shows it."""
    hidden = net.hidden(inputs)
    return net.rest(hidden + functional.linear(inputs, net.first.weight))


def headless() -> nn.Module:
    net = Net(tied_behind_a_head_of_zeros)
    nn.init.zeros_(net.last.weight)
    return net


@pytest.mark.parametrize("make", [lambda: Net(some_rows_twice), headless], ids=["rows that are picked", "zeros"])
def test_what_a_usual_record_does_not_show_is_right_all_the_same(make: Callable[[], nn.Module]) -> None:
    model = make()
    way = check_model(model, SHAPE)
    drawn = torch.Generator().manual_seed(3)
    inputs = torch.randn(9, *SHAPE, generator=drawn)
    inputs[4, 0] = 7.0
    weights = list(model.parameters())
    with torch.no_grad():
        for p in weights:
            p.add_(torch.randn(p.shape, generator=drawn))
    expected = [torch.autograd.grad(model(one.unsqueeze(0)).square().sum(), weights) for one in inputs]
    with attached(way, model) as gradients:
        gradients.backward(gradients(inputs).square().sum(dim=1))
        for number, p in enumerate(weights):
            sample = p.grad_sample  # type: ignore[attr-defined]
            for row, alone in enumerate(expected):
                only = torch.eye(len(inputs))[row]
                found = sample.weighted_sum(only) if not isinstance(sample, Tensor) else sample[row]
                assert torch.allclose(found, alone[number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", [BookKeeping, OpacusHooks])
def test_a_record_with_several_rows_is_refused_while_it_is_trained(way: type[BookKeeping]) -> None:
    """Each of them would be clipped by itself: the record would count several times."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Linear(2, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.as_tensor(self.each(inputs.reshape(-1, 2))).view(len(inputs), 3, 3).mean(dim=1)

    with attached(way, Parts()) as gradients, pytest.raises(UnsupportedModel, match=r"each\.weight has no gradient"):
        gradients.backward(gradients(torch.randn(4, 6)).sum(dim=1))


def test_a_frozen_parameter_that_changes_late_ends_the_training() -> None:
    passes = iter(range(10**9))

    def late(net: Net, inputs: Tensor) -> Tensor:
        hidden = net.hidden(inputs)
        if next(passes) > 100:
            net.mean.data.lerp_(hidden.detach().mean(dim=0), 0.5)
        return net.rest(hidden - net.mean)

    model = Net(late, mean=nn.Parameter(torch.zeros(8), requires_grad=False))
    records = Records(np.ones((12, 6), np.float32), np.zeros(12, np.int64), tuple(map(str, range(12))))
    fields = {"sampling_rate": 0.5, "noise_multiplier": 1.0, "clipping_norm": 1.0, "epsilon": 3.0, "delta": 1e-4}
    privacy = PrivacySection.model_validate(fields | {"steps": 150})
    with pytest.raises(InvalidContribution, match="frozen parameter"):
        train_private(model, lambda o, _: o.square().sum(dim=1), records, privacy, 12, 0.1, SeededNoise(b"x"))
