"""What privacy costs in time: a private step over a plain SGD step on the same records, for each way to its gradients.

A private step is the whole of it: forward, each record's gradient, clipping, noise, update. The networks are those of
the demo's studies, the small ones that are trained under noise, the large ones, and FedHelp's twin of both, and a
residual network beside them; batches are what the smallest and the largest hospital of a study draw on average. Each
private step is measured beside a plain one, which of the two goes first alternates, and the ways take turns: whatever
else the machine does falls on all. The ratio is the median of these pairs' own ratios. Seconds are the processor's: a
step runs on one thread and waits for nothing, and so what other processes take in between is left out.

Before anything is timed, each way's clipped sum is held against a loop over records (plain autograd, one at a time);
one that differs, or cannot do the model, is said to and not timed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from secure_fedhelp.data.records import Records
from secure_fedhelp.learning.methods.fedhelp import twin_losses
from secure_fedhelp.learning.models import Surrogate, TwoHeaded, build
from secure_fedhelp.learning.task import Task
from secure_fedhelp.learning.twin import Twin
from secure_fedhelp.privacy import training
from secure_fedhelp.privacy.gradients import BookKeeping
from secure_fedhelp.privacy.noise import SystemNoise
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.research.bench.modes import LEARNING_RATE, MODES, Private, Setting
from secure_fedhelp.research.bench.noise import SUBJECTS, Progress, Seconds, Subject, random_records
from secure_fedhelp.research.plans import DEFAULTS
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.methods import FedHelp
from secure_fedhelp.study.sections import Strict

#: What a private step of a convolutional network may cost, over a plain one.
LARGEST_RATIO: Final = 2.0
#: Share of the loop's clipped sum by which a way's may differ and still be the same number in single precision.
TOLERANCE: Final = 1e-4
#: Steps of each kind in a pair.
STEPS: Final = 3
_CLIPPING_NORM: Final = 1.0
_CLASSES: Final = 2


@dataclass(frozen=True)
class Case:
    """One network of a study and one expected batch. ``network`` "twin" is the study's small and large one together."""

    dataset: str
    network: str
    input_shape: tuple[int, ...]
    batch: int

    def built(self) -> tuple[nn.Module, RecordLoss]:
        """The model with fresh weights, and the loss it is trained with."""
        small, large = self._models()
        task = Task(torch.zeros(_CLASSES), small.pixelwise)
        if self.network != "twin":
            return Surrogate(small), task.losses
        return Twin(small, large), twin_losses(task, FedHelp(twin=True), temperature=1.0)

    def records(self) -> Records:
        """A batch, drawn at random: a step costs the same on any."""
        return random_records(self.input_shape, self.batch, masked=self._models()[0].pixelwise)

    def _models(self) -> tuple[TwoHeaded, TwoHeaded]:
        small, large = (build(name, self.input_shape, _CLASSES, seed=0) for name in self._names())
        return small, large

    def _names(self) -> tuple[str, str]:
        defaults = DEFAULTS[self.dataset]
        return (defaults.small, defaults.large) if self.network == "twin" else (self.network, self.network)


#: The demo's studies.
STUDIES: Final = (*SUBJECTS, Subject("retina", (3, 64, 64), (2, 7)))


def _cases() -> tuple[Case, ...]:
    found = []
    for subject in STUDIES:
        defaults, largest = DEFAULTS[subject.dataset], subject.batches[-1]
        wanted = [*((defaults.small, b) for b in subject.batches), (defaults.large, largest), ("twin", largest)]
        found += [Case(subject.dataset, network, subject.input_shape, batch) for network, batch in wanted]
    return (*found, Case("breast", "resnet-small", (1, 28, 28), 82))


CASES: Final = _cases()


class ModeResult(Strict):
    """One way on one case; only ``failure`` is given where it cannot do the model or its sum is another one."""

    mode: str
    #: How far its clipped sum is from a loop's, over that sum's norm.
    difference: Annotated[float, Field(ge=0)] | None = None
    step_s: Seconds | None = None
    #: Median over the repeats of a private step over the plain step beside it, and the middle half.
    ratio: Annotated[float, Field(gt=0)] | None = None
    ratio_quartiles: tuple[float, float] | None = None
    failure: str | None = None


class TrainingResult(Strict):
    """All ways on one case."""

    format: Literal[1] = 1
    dataset: str
    model: str
    parameters: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    plain_s: Seconds
    #: What training takes for this model.
    chosen: str
    modes: tuple[ModeResult, ...]
    repeats: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1)]
    #: Processes that wanted a core during the last minute: above ``cores``, they were shared.
    load: float
    versions: dict[str, str]


def run_training(repeats: int, progress: Progress, cases: Sequence[Case] = CASES) -> list[TrainingResult]:
    """Measure every case, ``repeats`` pairs of steps for each way."""
    results = []
    for number, case in enumerate(cases):
        progress(f"{case.dataset}: {case.network}, batch of {case.batch}", number, len(cases))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # Opacus' hooks on mere data
            warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap of the twin's loss
            results.append(_measure(case, repeats))
    return results


def write_training(path: Path, results: Sequence[TrainingResult]) -> None:
    """Write the JSON file; StorageError if that fails."""
    write_atomic(path, (json.dumps([r.model_dump(mode="json") for r in results], indent=1) + "\n").encode())


def _measure(case: Case, repeats: int) -> TrainingResult:
    records = case.records()
    expected = _clipped_by_loop(case, records)
    found = {name: _prepared(name, case, records, expected) for name in MODES}
    ready = {name: each for name, each in found.items() if isinstance(each, _Ready)}
    model, loss = case.built()
    plain = _Plain(model, loss, records)
    plain.step()
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    for repeat in range(repeats):
        for name in _turned(list(ready), repeat):
            pairs[name].append(_pair(ready[name].step, plain.step, swap=bool(repeat % 2)))
    for each in ready.values():
        each.private.gradients.close()
    way = training.check_model(case.built()[0], case.input_shape)
    return TrainingResult(
        dataset=case.dataset,
        model=case.network,
        parameters=sum(p.numel() for p in model.parameters()),
        batch=case.batch,
        plain_s=median(theirs for taken in pairs.values() for _, theirs in taken),
        chosen="book-keeping" if way is BookKeeping else "opacus-hooks",
        modes=tuple(
            ModeResult(mode=name, failure=each) if isinstance(each, str) else _result(name, each, pairs[name])
            for name, each in found.items()
        ),
        repeats=repeats,
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "opacus", "numpy")},
        },
    )


def _result(name: str, ready: _Ready, pairs: list[tuple[float, float]]) -> ModeResult:
    low, middle, high = (float(q) for q in np.quantile([ours / plain for ours, plain in pairs], [0.25, 0.5, 0.75]))
    return ModeResult(
        mode=name,
        difference=ready.difference,
        step_s=median(ours for ours, _ in pairs),
        ratio=middle,
        ratio_quartiles=(low, high),
    )


def _pair(ours: Callable[[], None], plain: Callable[[], None], swap: bool) -> tuple[float, float]:
    if swap:
        theirs, mine = _timed(plain), _timed(ours)
    else:
        mine, theirs = _timed(ours), _timed(plain)
    return mine, theirs


def _timed(step: Callable[[], None]) -> float:
    """Seconds a step."""
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - start) / STEPS


def _turned(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


class _Ready:
    """A way that gave the right sum, ready for more steps."""

    def __init__(self, private: Private, records: Records) -> None:
        self.private, self._records, self.difference = private, records, math.inf

    def step(self) -> None:
        """One private step on all the records, by the very code of ``train_private``."""
        p = self.private
        training._step(p.gradients, p.optimizer, p.loss, self._records, np.arange(len(self._records)))

    def clipped_sum(self) -> Tensor:
        """What a step without noise sums up, seen where Opacus lets one look: after scaling, before the update."""
        optimizer, seen = self.private.optimizer, list[Tensor]()
        multiplier, optimizer.noise_multiplier = optimizer.noise_multiplier, 0.0
        optimizer.attach_step_hook(lambda o: seen.append(torch.cat([p.grad.flatten() for p in o.params])))
        self.step()
        optimizer.attach_step_hook(None)
        optimizer.noise_multiplier = multiplier
        return seen[0] * len(self._records)


class _Plain:
    """Plain SGD on the mean loss."""

    def __init__(self, model: nn.Module, loss: RecordLoss, records: Records) -> None:
        self._model, self._loss, self._records = model, loss, records
        self._optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step(self) -> None:
        chosen = np.arange(len(self._records))
        inputs, labels = (torch.from_numpy(values[chosen]) for values in (self._records.inputs, self._records.labels))
        self._optimizer.zero_grad()
        self._loss(self._model(inputs), labels).mean().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _prepared(name: str, case: Case, records: Records, expected: Tensor) -> _Ready | str:
    """The way on fresh weights, or why it is not measured."""
    try:
        model, loss = case.built()
        made = MODES[name](Setting(model, loss, SystemNoise(), _CLIPPING_NORM, len(records)))
        ready = _Ready(made, records)
        ready.difference = float((ready.clipped_sum() - expected).norm() / expected.norm())
    except (RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:  # whatever torch raises
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if not ready.difference <= TOLERANCE:
        return f"its sum differs from the loop's by {ready.difference:.1e} of it"
    return ready


def _clipped_by_loop(case: Case, records: Records) -> Tensor:
    """The reference: one record after another, plain autograd, each gradient clipped as a whole."""
    model, loss = case.built()
    parameters, total = list(model.parameters()), torch.zeros(())
    for record, label in zip(torch.from_numpy(records.inputs), torch.from_numpy(records.labels), strict=True):
        value = loss(model(record.unsqueeze(0)), label.unsqueeze(0)).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
        total = total + gradient * (_CLIPPING_NORM / (gradient.norm() + 1e-6)).clamp(max=1.0)
    return total
