"""Every kind of network that is trained has each record's gradient, as a loop in double precision finds it."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidContribution, UnsupportedModel
from secure_fedhelp.privacy.choosing import choose
from secure_fedhelp.privacy.gradients import BookKeeping, Gradients, OpacusHooks, RecordByRecord, attached
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.training import NoisyOptimizer, check_model, train_private
from secure_fedhelp.study.sections import PrivacySection

ROWS = 6


class Coded(nn.Module):
    """A table whose cells are codes: whole numbers in float32, which the network turns into row numbers itself."""

    def __init__(self, embedding: nn.Module, width: int, cast: bool = True) -> None:
        super().__init__()
        self.embedding, self.last, self.cast = embedding, nn.Linear(width, 3), cast

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.long() if self.cast else inputs
        return torch.as_tensor(self.last(self.embedding(rows).flatten(1)))


class Attending(nn.Module):
    """Self-attention over places [b, places, 4] by PyTorch's own layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, bias=False)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=dropout)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.norm(inputs)
        return torch.as_tensor(self.last(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(dim=1)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.LSTM(4, 5, num_layers=2, batch_first=True, dropout=0.5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.cells(inputs)[0][:, -1]))


class Placed(nn.Module):
    """Places have embeddings of their own, whose input is no batch, and there is a parameter beside the layers."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places, self.start = nn.Embedding(places, 4), nn.Parameter(torch.randn(1, 1, 4))
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        placed = torch.cat(
            [inputs + self.places(torch.arange(inputs.shape[1])), self.start.expand(len(inputs), -1, -1)], 1
        )
        return torch.as_tensor(self.last(torch.tanh(placed).mean(dim=1)))


class Tied(nn.Module):
    """Rows are read by an embedding and again as a layer's weight, the padding row too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ROWS, 4, padding_idx=0)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.embedding(inputs.long()).sum(dim=1)) @ self.embedding.weight.T


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden += inputs
        hidden *= self.gate(inputs)
        return torch.as_tensor(self.last(hidden))


def convolved(mode: str, **settings: object) -> nn.Module:
    layer = nn.Conv2d(2, 3, 3, padding_mode=mode, **settings)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Flatten())


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def frozen_encoder() -> nn.Module:
    encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6)).requires_grad_(False)
    return nn.Sequential(encoder, nn.Linear(6, 3))


def frozen_middle() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 3))


def frozen_weight() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    return model


class FrozenNorm(nn.Module):
    """A pretrained encoder keeps its batch norm in evaluation mode: its figures are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)).requires_grad_(False)
        self.last = nn.Linear(6, 3)

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.encoder(inputs)))


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(inputs.double()))


class Squeezed(nn.Module):
    """Loses the axis of the records where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.last(inputs).squeeze())


Kind = tuple[Callable[[], nn.Module], tuple[int, ...], type[Gradients]]

#: Networks, the shape of their inputs, and the way that trains them.
FLOATS: dict[str, Kind] = {
    "attention": (Attending, (5, 4), RecordByRecord),
    "a transformer layer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(20, 3)),
        (5, 4),
        RecordByRecord,
    ),
    "an LSTM": (Recurrent, (5, 4), RecordByRecord),
    "embedded places": (lambda: Placed(5), (5, 4), OpacusHooks),
    "two embedded places": (lambda: Placed(2), (2, 4), OpacusHooks),
    "activations in place": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        (4,),
        RecordByRecord,
    ),
    "sums in place": (InPlace, (4,), RecordByRecord),
    **{
        f"{mode} padding": (lambda mode=mode: convolved(mode, padding=(2, 1), bias=False), (2, 6, 5), BookKeeping)
        for mode in ("zeros", "circular", "reflect", "replicate")
    },
    "padding by name": (lambda: convolved("zeros", padding="same", dilation=2), (2, 6, 5), BookKeeping),
    "uneven padding by name": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, (2, 4), padding="same", padding_mode="circular"), nn.Flatten()),
        (2, 6, 5),
        BookKeeping,
    ),
    "circular padding in one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()),
        (2, 5),
        RecordByRecord,
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), BookKeeping),
    "layer norm of two axes": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.LayerNorm((4, 3))), (2, 5, 4), BookKeeping),
    "layer norm without a shift": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, bias=False)),
        (4,),
        BookKeeping,
    ),
    "bare layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)),
        (4,),
        BookKeeping,
    ),
    "RMS norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4)), (4,), OpacusHooks),
    "group norm": (lambda: normed(nn.GroupNorm(2, 4)), (2, 5, 5), BookKeeping),
    "bare group norm": (lambda: normed(nn.GroupNorm(2, 4, affine=False)), (2, 5, 5), BookKeeping),
    "instance norm": (lambda: normed(nn.InstanceNorm2d(4, affine=True)), (2, 5, 5), OpacusHooks),
    "bare instance norm": (lambda: normed(nn.InstanceNorm2d(4)), (2, 5, 5), BookKeeping),
    "a frozen encoder": (frozen_encoder, (4,), BookKeeping),
    "a frozen layer in the middle": (frozen_middle, (4,), BookKeeping),
    "a frozen weight": (frozen_weight, (4,), BookKeeping),
    "a frozen batch norm": (FrozenNorm, (4,), OpacusHooks),
    "a frozen LSTM": (
        lambda: (lambda net: (net.cells.requires_grad_(False), net)[1])(Recurrent()),
        (5, 4),
        BookKeeping,
    ),
}
CODES: dict[str, Kind] = {
    "an embedding": (lambda: Coded(nn.Embedding(ROWS, 4), 12), (3,), BookKeeping),
    "a padding row": (lambda: Coded(nn.Embedding(ROWS, 4, padding_idx=2), 12), (3,), BookKeeping),
    "the last row as padding": (lambda: Coded(nn.Embedding(ROWS, 4, padding_idx=-1), 12), (3,), BookKeeping),
    "a padding row by hooks": (
        lambda: nn.Sequential(Coded(nn.Embedding(ROWS, 4, padding_idx=1), 12), nn.RMSNorm(3)),
        (3,),
        OpacusHooks,
    ),
    "a frozen embedding": (lambda: Coded(nn.Embedding(ROWS, 4).requires_grad_(False), 12), (3,), BookKeeping),
    "a tied embedding": (Tied, (3,), RecordByRecord),
    **{
        f"a bag of rows, {mode}": (
            lambda mode=mode: Coded(nn.EmbeddingBag(ROWS, 4, mode=mode, padding_idx=1), 4),
            (3,),
            RecordByRecord,
        )
        for mode in ("sum", "mean", "max")
    },
}
EVERY = FLOATS | CODES


def made(name: str) -> nn.Module:
    torch.manual_seed(3)
    return EVERY[name][0]()


def some(name: str, count: int = 5) -> Tensor:
    rng, shape = np.random.default_rng(7), (count, *EVERY[name][1])
    if name in CODES:
        return torch.from_numpy(rng.integers(0, ROWS, size=shape).astype(np.float32))
    sizes = np.geomspace(0.1, 8, count).reshape(-1, *[1] * (len(shape) - 1))
    return torch.from_numpy((rng.normal(size=shape) * sizes).astype(np.float32))


def losses_of(outputs: Tensor) -> Tensor:
    flat = outputs.flatten(1)
    return torch.logsumexp(flat, dim=1) - flat[:, 0]


def by_loop(model: nn.Module, inputs: Tensor, norm: float) -> Tensor:
    """The clipped sum by plain autograd, one record after another, in double precision."""
    model = copy.deepcopy(model).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for record in inputs.double():
        parts = torch.autograd.grad(losses_of(model(record[None])).sum(), parameters)
        gradient = torch.cat([part.flatten() for part in parts])
        total += gradient * min(1.0, norm / float(gradient.norm()))
    return total


def without_random(model: nn.Module) -> nn.Module:
    """Dropout off, so that two passes can be compared."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0
    return model


@pytest.mark.parametrize("name", EVERY)
def test_the_clipped_sum_of_each_kind_is_a_loop_over_records(name: str) -> None:
    model = made(name)
    way = check_model(model, EVERY[name][1])
    assert way is EVERY[name][2]
    without_random(model)
    inputs = some(name)
    for norm in (0.05, 1e6):
        with attached(way, model) as found:
            optimizer = NoisyOptimizer(
                torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0),
                noise=SeededNoise(b"x"),
                noise_multiplier=1.0,
                max_grad_norm=norm,
                expected_batch_size=1,
            )
            found.backward(losses_of(found(inputs)))
            optimizer.clip_and_accumulate()
            summed = torch.cat([p.summed_grad.flatten() for p in model.parameters() if p.requires_grad]).double()
        expected = by_loop(model, inputs, norm)
        assert float((summed - expected).norm()) <= 1e-5 * float(expected.norm())


def privacy(**values: float) -> PrivacySection:
    fields = {"sampling_rate": 0.5, "noise_multiplier": 1.0, "clipping_norm": 1.0, "steps": 2, "epsilon": 3.0}
    return PrivacySection.model_validate(fields | {"delta": 1e-4} | values)


def recorded(name: str, count: int = 12) -> Records:
    inputs = some(name, count)
    return Records(inputs.numpy(), np.zeros(count, dtype=np.int64), tuple(f"p{n}" for n in range(count)))


@pytest.mark.parametrize("name", ["a frozen encoder", "a frozen weight", "a frozen batch norm", "a frozen embedding"])
def test_what_is_frozen_gets_no_noise(name: str) -> None:
    model = made(name)
    before = {key: values.clone() for key, values in model.state_dict().items()}
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    train_private(model, lambda o, _: losses_of(o), recorded(name), privacy(), 12, 0.1, SeededNoise(b"x"))
    for key, values in model.state_dict().items():
        assert torch.equal(values, before[key]) == (key not in trained)


@pytest.mark.parametrize("name", ["a padding row", "the last row as padding", "a bag of rows, mean"])
def test_a_padding_row_gets_neither_gradient_nor_noise(name: str) -> None:
    model = made(name)
    layer = model.embedding
    assert isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    before = layer.weight.detach().clone()
    train_private(model, lambda o, _: losses_of(o), recorded(name), privacy(), 12, 0.1, SeededNoise(b"x"))
    changed = (layer.weight != before).any(dim=1)
    assert [number for number, row in enumerate(changed) if not row] == [layer.padding_idx]


def test_a_draw_of_nobody_is_noise_in_every_way() -> None:
    for name in ("attention", "a padding row", "a padding row by hooks"):
        model, records = made(name), recorded(name)
        section = privacy(sampling_rate=1e-9)
        train_private(model, lambda o, _: losses_of(o), records, section, 12, 0.1, SeededNoise(b"x"))
        assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_dropout_of_attention_stays_on_in_training_and_is_no_mixing() -> None:
    model = Attending(dropout=0.5)
    assert check_model(model, (5, 4)) is RecordByRecord
    assert model.attention.dropout == 0.5


@pytest.mark.parametrize(
    ("model", "shape", "words", "hint"),
    [
        (Coded(nn.Embedding(ROWS, 4), 12, cast=False), (3,), "'embedding' .Embedding. cannot take", "inputs.long"),
        (Coded(nn.Embedding(ROWS, 4, max_norm=1.0), 12), (3,), "'embedding' .Embedding. has max_norm", "max_norm"),
        (Coded(nn.Embedding(ROWS, 4, scale_grad_by_freq=True), 12), (3,), "scale_grad_by_freq", "Leave"),
        (Coded(nn.Embedding(ROWS, 4, sparse=True), 12), (3,), "has sparse gradients", "Leave sparse out"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (4,), "'1' .BatchNorm1d. mixes", "train\\(\\)"),
        (nn.Sequential(nn.Linear(4, 3)).requires_grad_(False), (4,), "nothing to train", ""),
        (Double(), (4,), "answers in torch.float64", ""),
        (Squeezed(), (4,), "does not answer each record of a batch", ""),
        (nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 3)), (4,), "does not answer each record .* with a tensor", ""),
    ],
)
def test_what_cannot_be_trained_is_refused_in_its_own_words(
    model: nn.Module, shape: tuple[int, ...], words: str, hint: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words) as refused:
        check_model(model, shape)
    assert re.search(hint, refused.value.hint)


def test_a_row_that_is_not_there_is_named_and_not_a_traceback() -> None:
    model = made("an embedding")
    records = Records(np.full((12, 3), 99, dtype=np.float32), np.zeros(12, dtype=np.int64), tuple(map(str, range(12))))
    with pytest.raises(InvalidContribution, match="row that is not there") as refused:
        train_private(model, lambda o, _: losses_of(o), records, privacy(sampling_rate=0.9), 12, 0.1, SeededNoise(b"x"))
    assert "clamp" in refused.value.hint


class Counting(nn.Module):
    """Changes a buffer when the trial has long ended. The count is not the module's: of one of its own it is told."""

    passes = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        if next(self.passes) > 60:
            self.seen += inputs.detach().mean(dim=0)
        return torch.as_tensor(self.last(inputs))


def test_a_buffer_that_changes_late_ends_the_training() -> None:
    records = recorded("a frozen encoder")
    with pytest.raises(InvalidContribution, match="buffer"):
        train_private(Counting(), lambda o, _: losses_of(o), records, privacy(steps=60), 12, 0.1, SeededNoise(b"x"))


def test_the_trial_asks_for_padding_rows() -> None:
    """Opacus alone gives a padding row a gradient, and a trial that never asks for it would not see that."""
    model = Coded(nn.Embedding(1000, 4, padding_idx=7), 12)
    assert choose(model, (3,)) is BookKeeping
    from secure_fedhelp.privacy.compatibility import usable_inputs

    assert any(bool((inputs == 7).any()) for inputs in usable_inputs(model, (3,)))
