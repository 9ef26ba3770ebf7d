"""What noise from a cryptographic source costs: a private step against the same step with Opacus' default noise.

Both steps are the very code of a study (privacy/training.py) on the models that the demo's studies train under noise,
with the batch that the smallest and the largest hospital of each draws on average. Only the optimiser differs: ours
takes its noise from AES in counter mode, Opacus' own from torch's generator, which is no cryptographic source. (The
retina's U-Net is left out: beside its convolutions noise is no matter.) The two
take turns within a repeat and swap places between repeats, so whatever else the machine does falls on both; the ratio
is the median of the repeats' own ratios. Seconds are the processor's: what other processes take in between is left out.

Inputs are drawn at random: a step costs the same on any.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from pydantic import Field
from torch.nn.functional import cross_entropy

from secure_fedhelp.data.records import Records
from secure_fedhelp.learning.models import Surrogate, build
from secure_fedhelp.privacy import training
from secure_fedhelp.privacy.gradients import attached
from secure_fedhelp.privacy.noise import SystemNoise
from secure_fedhelp.research.plans import DEFAULTS
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import Strict

#: What a step may cost, over Opacus' default step.
LARGEST_RATIO: Final = 1.3
#: Steps of each kind in a repeat: enough that the clock's own grain is no matter.
STEPS: Final = 5

Progress = Callable[[str, int, int], None]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Subject:
    """A study of the demo: its inputs' shape, and what its smallest and its largest hospital draw for a step."""

    dataset: str
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]

    @property
    def model(self) -> str:
        """The network that is trained under noise; at large hospitals too, as the proxy."""
        return DEFAULTS[self.dataset].small


SUBJECTS: Final = (
    Subject("breast-cancer", (30,), (2, 66)),
    Subject("heart", (25,), (24, 58)),
    Subject("pneumonia", (1, 28, 28), (28, 284)),
    Subject("breast", (1, 28, 28), (3, 82)),
)


class NoiseResult(Strict):
    """One model and batch. Seconds are medians: of a whole step, and of adding the noise alone."""

    format: Literal[1] = 1
    dataset: str
    model: str
    parameters: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    step_s: Seconds
    opacus_step_s: Seconds
    #: Median over the repeats of ours over Opacus', least and most of the middle half beside it.
    ratio: Annotated[float, Field(gt=0)]
    ratio_quartiles: tuple[float, float]
    noise_s: Seconds
    opacus_noise_s: Seconds
    repeats: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1)]
    versions: dict[str, str]


def run_noise(repeats: int, progress: Progress, subjects: Sequence[Subject] = SUBJECTS) -> list[NoiseResult]:
    """Measure every subject and batch, ``repeats`` times each."""
    todo = [(subject, batch) for subject in subjects for batch in subject.batches]
    results = []
    for number, (subject, batch) in enumerate(todo):
        progress(f"{subject.dataset}, batch of {batch}", number, len(todo))
        results.append(_measure(subject, batch, repeats))
    return results


def noise_json(results: Sequence[NoiseResult]) -> bytes:
    """The file's bytes: a list of results."""
    return (json.dumps([r.model_dump(mode="json") for r in results], indent=1) + "\n").encode()


def write_noise(path: Path, results: Sequence[NoiseResult]) -> None:
    """Write the JSON file; StorageError if that fails."""
    write_atomic(path, noise_json(results))


def _measure(subject: Subject, batch: int, repeats: int) -> NoiseResult:
    records = random_records(subject.input_shape, batch)
    with ExitStack() as stack:
        ours, opacus = (_Contender(stack, subject, records, default) for default in (False, True))
        for contender in (ours, opacus):
            contender.steps(STEPS)  # the first step of a model allocates what later ones use again
        pairs, noises = [], []
        for repeat in range(repeats):
            turns = (ours, opacus) if repeat % 2 else (opacus, ours)
            took = {id(c): (c.steps(STEPS), c.noise(STEPS)) for c in turns}
            pairs.append((took[id(ours)][0], took[id(opacus)][0]))
            noises.append((took[id(ours)][1], took[id(opacus)][1]))
    ratios = np.asarray([mine / theirs for mine, theirs in pairs])
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    return NoiseResult(
        dataset=subject.dataset,
        model=subject.model,
        parameters=sum(p.numel() for p in ours.optimizer.params),
        batch=batch,
        step_s=median(mine for mine, _ in pairs),
        opacus_step_s=median(theirs for _, theirs in pairs),
        ratio=middle,
        ratio_quartiles=(low, high),
        noise_s=median(mine for mine, _ in noises),
        opacus_noise_s=median(theirs for _, theirs in noises),
        repeats=repeats,
        cores=len(os.sched_getaffinity(0)),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "opacus", "numpy")},
        },
    )


class _OpacusNoise(training.NoisyOptimizer):
    """Our optimiser, but for the noise."""

    add_noise = DPOptimizer.add_noise


class _Contender:
    """One model with one optimiser, and steps on the same records."""

    def __init__(self, stack: ExitStack, subject: Subject, records: Records, default: bool) -> None:
        model = Surrogate(build(subject.model, subject.input_shape, 2, seed=0))
        way = training.check_model(model, subject.input_shape)
        self._gradients = stack.enter_context(attached(way, model))
        settings: dict[str, Any] = {
            "noise_multiplier": 1.0,
            "max_grad_norm": 1.0,
            "expected_batch_size": len(records),
        }
        plain = torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer = _OpacusNoise if default else training.NoisyOptimizer
        self.optimizer = optimizer(plain, noise=SystemNoise(), **settings)
        self._records = records

    def steps(self, count: int) -> float:
        """Seconds a step of ``count`` of them."""
        chosen = np.arange(len(self._records))
        start = time.process_time()
        for _ in range(count):
            training._step(self._gradients, self.optimizer, _loss, self._records, chosen)
        return (time.process_time() - start) / count

    def noise(self, count: int) -> float:
        """Seconds of adding noise to the sum of a step."""
        seconds = 0.0
        for _ in range(count):
            for p in self.optimizer.params:
                p.summed_grad = torch.zeros_like(p)
            start = time.process_time()
            self.optimizer.add_noise()
            seconds += time.process_time() - start
        self.optimizer.zero_grad()
        return seconds / count


def _loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, labels, reduction="none")


def random_records(shape: tuple[int, ...], count: int, masked: bool = False) -> Records:
    """``count`` patients with one record of ``shape`` each, of two classes; if ``masked`` each pixel has its own."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, *shape)).astype(np.float32)
    labels = rng.integers(2, size=(count, *shape[1:])) if masked else np.arange(count, dtype=np.int64) % 2
    return Records(inputs, labels, tuple(f"p{number}" for number in range(count)))
