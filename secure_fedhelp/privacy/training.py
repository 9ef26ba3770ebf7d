"""The one adapter around Opacus: DP-SGD whose every public figure comes from the plan.

Opacus gives the order of a private step and the rules for models; the records' gradients are privacy/gradients.py's.
Three things carry the guarantee:

* **Patients, not records, are drawn**, each by Poisson sampling at the plan's rate with cryptographic coins, and each
  drawn patient brings one record; so a patient with many records has no more influence than one with a single record.
* **The denominator is a constant** of the plan (rate times *nominal* patients). A batch size computed from the private
  count would tell it (Opacus issues 571 and 819). A step that draws nobody still adds its noise and counts.
* **Noise comes from our source**, through the method that Opacus' own optimiser variants override.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor, nn

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidContribution, UnsupportedModel
from secure_fedhelp.privacy.choosing import choose
from secure_fedhelp.privacy.compatibility import require_known_settings
from secure_fedhelp.privacy.gradients import Gradients, PerRecord, attached, per_record
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.study.sections import PrivacySection

#: (logits [b, ...], labels [b]) to one loss a record, [b]. Summing is done here, so that no loss can average over a
#: private number of records.
RecordLoss = Callable[[Tensor, Tensor], Tensor]

#: Records whose gradients are held at once; a larger batch is clipped in even parts, with one noise at the end. Larger
#: parts have arrays that the allocator gives back after each use, and fetching them again cost a fifth of a step.
PHYSICAL_BATCH = 160


def train_private(
    model: nn.Module,
    loss_fn: RecordLoss,
    records: Records,
    privacy: PrivacySection,
    nominal_patients: int,
    learning_rate: float,
    noise: NoiseSource,
    *,
    pull: float = 0.0,
) -> DpSgd:
    """``privacy.steps`` steps of DP-SGD on ``model``, in place; returns the event that was executed.

    ``pull`` adds pull/2 ||w - w_start||^2 to the objective (see :class:`NoisyOptimizer`). Raises UnsupportedModel
    before a record is drawn, and InvalidContribution if training diverged, or the model turned out to mix records.
    """
    way = check_model(model, records.inputs.shape[1:])
    expected_batch = privacy.sampling_rate * nominal_patients
    steps, constants, padding = 0, [values.clone() for values in _constants(model)], _padding_rows(model)
    with attached(way, model) as gradients:
        optimizer = NoisyOptimizer(
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=learning_rate),
            noise=noise,
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.clipping_norm,
            expected_batch_size=expected_batch,
            pull=pull,
        )
        while steps < privacy.steps:
            chosen = draw_records(records, privacy.sampling_rate, noise)
            try:
                _step(gradients, optimizer, loss_fn, records, chosen)
            except UnsupportedModel as error:  # the trial went well, so it was these records
                raise InvalidContribution(f"private training failed: {error.message}") from error
            except IndexError as error:  # an embedding has no such row
                raise InvalidContribution(
                    f"private training failed: the network asks for a row that is not there: {error}",
                    "Let the network keep row numbers within an embedding's rows: inputs.long().clamp(0, rows - 1).",
                ) from error
            steps += 1
            for row, start in padding:
                row.copy_(start)  # no record moves it, so noise there would protect nobody
    if not all(torch.equal(now, before) for now, before in zip(_constants(model), constants, strict=True)):
        raise InvalidContribution(
            "a buffer or frozen parameter of the network changed with private records: it carries no noise"
        )
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise InvalidContribution("private training diverged: a parameter is NaN or infinite")
    return DpSgd(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        clipping_norm=privacy.clipping_norm,
        steps=steps,
    )


def draw_records(records: Records, sampling_rate: float, noise: NoiseSource) -> NDArray[np.int64]:
    """Indices of one record of each patient drawn by Poisson sampling; often few, sometimes none.

    Which record stands for a patient is drawn afresh from secret, independent randomness. A choice from one running
    stream with a known seed would be shifted by every patient drawn before: then adding one patient would change the
    records of many, and the clipping norm would no longer bound what one patient can do to the sum.
    """
    drawn = np.flatnonzero(noise.poisson_mask(records.n_patients, sampling_rate))
    places = noise.uniform(len(drawn))
    picks = [
        records.by_patient[patient][int(u * len(records.by_patient[patient]))]
        for patient, u in zip(drawn, places, strict=True)
    ]
    return np.asarray(picks, dtype=np.int64)


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimiser with noise from a :class:`~secure_fedhelp.privacy.noise.NoiseSource`, not torch's generator.

    With a ``pull`` each step also goes towards the start, by pull (w - w_start). That depends on the start and on the
    noisy steps since, and on no record: it is post-processing, added after the noise, neither clipped nor paid for.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, pull: float = 0.0, **settings: object
    ) -> None:
        super().__init__(optimizer, **settings)
        self._noise, self._pull = noise, pull
        self._start = [p.detach().clone() for p in self.params] if pull else []

    @property
    def grad_samples(self) -> list[PerRecord]:
        return [per_record(p.grad_sample) for p in self.params]

    @property
    def accumulated_iterations(self) -> int:
        """The loss is a sum over records, however many parts a step has: the denominator stays the plan's."""
        return 1

    def clip_and_accumulate(self) -> None:
        """Add each record's gradient, times min(1, clipping norm / its norm), to ``p.summed_grad``.

        The norm is over all parameters together. Gradients are dropped at once, so that none is added twice.

        A record whose gradient is NaN or infinite adds nothing. No factor clips it, and in the sum it would make
        everything NaN: the hospital would go silent because of one patient, which no epsilon covers.
        """
        samples = self.grad_samples
        norms = torch.stack([sample.norms() for sample in samples]).norm(dim=0)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        factors = torch.where(torch.isfinite(norms), factors, 0.0)
        for p, sample in zip(self.params, samples, strict=True):
            total = sample.weighted_sum(factors)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total
            p.grad_sample = None

    def add_noise(self) -> None:
        """``p.grad`` = clipped sum + N(0, (noise multiplier * clipping norm)^2), added in float64 and then rounded.

        All parameters' noise is drawn and added at once, because each draw makes a key. As in Opacus, a sum that got
        its noise is marked, and refused a second time: two noisy copies of one sum would be two releases.
        """
        sums = [p.summed_grad for p in self.params]
        _check_processed_flag(sums)
        flat = torch.cat([total.flatten() for total in sums]).double()
        flat += torch.from_numpy(self._noise.normal((len(flat),), self.noise_multiplier * self.max_grad_norm))
        for p, part in zip(self.params, torch.split(flat, [p.numel() for p in self.params]), strict=True):
            p.grad = part.view_as(p).to(p.dtype)
        _mark_as_processed(sums)

    def scale_grad(self) -> None:
        """The noisy sum over the expected batch, and the pull."""
        super().scale_grad()
        for p, start in zip(self.params, self._start, strict=False):
            p.grad.add_(p.detach() - start, alpha=self._pull)


def check_model(model: nn.Module, input_shape: tuple[int, ...]) -> type[Gradients]:
    """The fastest right way to each record's gradient; UnsupportedModel, naming the layer, if records would mix.

    The model is put into training mode, and two made-up records are sent forth and back. Frozen parameters and buffers
    are constants: they may be there, and no pass may change them.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UnsupportedModel("every parameter is frozen: there is nothing to train")
    model.train()
    require_known_settings(model)
    return choose(model, input_shape)


def _constants(model: nn.Module) -> list[Tensor]:
    return [*model.buffers(), *(p.detach() for p in model.parameters() if not p.requires_grad)]


def _padding_rows(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Embeddings' padding rows that are trained with the rest, each beside its value now."""
    layers = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.weight.requires_grad]
    rows = [layer.weight.detach()[layer.padding_idx] for layer in layers if layer.padding_idx is not None]
    return [(row, row.clone()) for row in rows]


def _step(
    gradients: Gradients,
    optimizer: NoisyOptimizer,
    loss_fn: RecordLoss,
    records: Records,
    chosen: NDArray[np.int64],
) -> None:
    """One private step on these records; with none of them, one step of pure noise."""
    parts = np.array_split(chosen, max(1, math.ceil(len(chosen) / PHYSICAL_BATCH)))
    for part in parts:
        optimizer.signal_skip_step(part is not parts[-1])
        if len(part):
            losses = loss_fn(gradients(torch.from_numpy(records.inputs[part])), torch.from_numpy(records.labels[part]))
            if losses.shape != (len(part),):
                raise ValueError(f"the loss gave shape {tuple(losses.shape)}, one value a record is needed")
            gradients.backward(losses)
        else:
            for p in optimizer.params:
                p.grad_sample = torch.zeros((0, *p.shape), dtype=p.dtype)
        optimizer.step()
        optimizer.zero_grad()
