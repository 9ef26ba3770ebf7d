"""The study against its rivals, seed by seed: the very same method code, in one process and without encryption.

Encryption changes a sum by less than 1e-6 and a result not at all, so comparisons leave it out and say so; the demo
runs the same study with every lock on. A seed changes the split, the initial weights and the noise. A seed's value for
a tier is the mean over the tier's hospitals, all judged on one held-out test set, so the seeds are the sample of every
interval: differences are paired by seed, with Student's t at 95 %.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.plans import build_plan
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding, sanitise
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.channel import pack_channels, unpack_mean
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import StudyPlan

if TYPE_CHECKING:
    from secure_fedhelp.learning.method import Method
    from secure_fedhelp.privacy.mechanisms import Mechanism
    from secure_fedhelp.privacy.noise import NoiseSource

#: What is compared, in the order it is printed.
MODELS: dict[str, str] = {
    "study": "study's model (DP)",
    "local-dp": "local only, same epsilon",
    "local-dp-warm": "local only, same epsilon, public warm start",
    "public": "public set and teacher only",
    "personal": "personal model (stays at home, no noise)",
    "local": "local, no noise",
    "local-warm": "local, no noise, public warm start",
}
#: Paired differences: the first minus the second.
DIFFERENCES = (
    ("study", "local-dp"),
    ("study", "local-dp-warm"),
    ("study", "public"),
    ("personal", "local"),
    ("personal", "local-warm"),
)
METRICS = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "ece": "ECE", "dice": "Dice"}


@dataclass(frozen=True)
class CompareSettings:
    """What to run. ``rounds`` and ``epsilon`` None take the data set's defaults; seeds are 1 to ``seeds``."""

    dataset: str
    data_dir: Path | None
    seeds: int
    rounds: int | None
    epsilon: float | None
    jobs: int


@dataclass(frozen=True)
class Row:
    """One model of one hospital under one seed, on the study's test set; ``epsilon`` is what its training spent."""

    seed: int
    hospital: str
    tier: str
    model: str
    epsilon: float | None
    auroc: float
    balanced_accuracy: float
    #: Calibration error, and of a segmentation the Dice coefficient (learning/evaluation.py).
    ece: float | None = None
    dice: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, standard deviation, and the half width of the 95 % interval of the mean (NaN for one seed)."""

    mean: float
    deviation: float
    half_width: float


def run_seed(settings: CompareSettings, seed: int) -> list[Row]:
    """One seed of a comparison: the study, then each hospital's rivals."""
    from secure_fedhelp.learning import baselines
    from secure_fedhelp.privacy.noise import SeededNoise
    from secure_fedhelp.research.teacher import teacher_of

    study = prepare(settings.dataset, settings.data_dir, seed)
    plan = build_plan(settings.dataset, study, settings.rounds, settings.epsilon, seed)
    test, public, fitted = study.test, study.public, teacher_of(plan, study.reference)
    teacher = None if fitted is None else fitted.logits(public.inputs)

    def noise(purpose: str, name: str) -> SeededNoise:
        return SeededNoise(canonical_bytes([settings.dataset, seed, purpose, name]))

    rows: list[Row] = []
    public_only = baselines.public_only(plan, public, teacher, test)
    for name, method, spent in run_in_process(plan, study, teacher, lambda name: noise("study", name)):
        tier, mine = study.hospitals[name]
        own = method.evaluate(test)
        found = {
            "study": own["study_model"],
            "personal": own["personal_model"],
            "public": public_only,
            "local-dp": baselines.local_only(plan, name, mine, noise("local", name), test),
            "local-dp-warm": baselines.local_only(plan, name, mine, noise("warm", name), test, public, teacher),
            "local": baselines.local_non_private(plan, name, mine, test),
            "local-warm": baselines.local_non_private(plan, name, mine, test, public, teacher),
        }
        paid = ("study", "local-dp", "local-dp-warm")
        rows += [
            Row(seed, name, tier, model, spent if model in paid else None, m.auroc, m.balanced_accuracy, m.ece, m.dice)
            for model, m in found.items()
        ]
    return rows


def run_in_process(
    plan: StudyPlan, study: StudyData, teacher: NDArray[np.float32] | None, noise_of: Callable[[str], NoiseSource]
) -> Iterator[tuple[str, Method, float]]:
    """Run the whole study with plaintext sums; yields name, method and epsilon spent of each hospital.

    The sums carry the noise that sanitised decryptions do, since it is in every model of a deployed study.
    """
    from secure_fedhelp.learning.method import Site
    from secure_fedhelp.learning.methods import make_method
    from secure_fedhelp.privacy.accountant import epsilon
    from secure_fedhelp.privacy.mechanisms import paid

    methods = {
        name: make_method(Site(plan, name, records, study.public, teacher, noise_of(name)))
        for name, (_, records) in study.hospitals.items()
    }
    cohort = tuple(sorted(methods))
    events: dict[str, list[Mechanism]] = {name: [] for name in methods}
    for number in range(plan.study.rounds):
        total = np.zeros(plan.length_of(number))
        for name, method in methods.items():
            output = method.contribute(number)
            events[name] += paid(output.events)
            total += pack_channels(plan, number, name, output.channels)
        if plan.aggregation.decrypted == "sanitised":
            noise, key = plan_flooding(plan, plan_profile(plan)), hashlib.sha256(plan.hash.encode()).digest()
            total = sanitise(total, noise, key, number.to_bytes(8, "big"))
        means = unpack_mean(plan, number, total, cohort)
        for method in methods.values():
            method.absorb(number, means)
    for name, method in methods.items():
        yield name, method, epsilon(events[name], plan.privacy_of(name).delta)


def run_comparison(settings: CompareSettings, progress: Callable[[int], None] = lambda seed: None) -> list[Row]:
    """All seeds, ``jobs`` at a time, each in a process of its own. ``progress`` is told each finished seed."""
    if settings.seeds < 1 or settings.jobs < 1:
        raise InvalidConfiguration("at least one seed and one job are needed", "Use --seeds 5 --jobs 2, for instance.")
    prepare(settings.dataset, settings.data_dir, 1)  # a missing file is told before processes start
    seeds = range(1, settings.seeds + 1)
    rows: list[Row] = []
    if settings.jobs == 1 or settings.seeds == 1:
        for seed in seeds:
            rows += run_seed(settings, seed)
            progress(seed)
        return rows
    # spawn, not fork: a forked copy of torch's threads can hang
    with ProcessPoolExecutor(settings.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed, found in zip(seeds, pool.map(run_seed, [settings] * settings.seeds, seeds), strict=True):
            rows += found
            progress(seed)
    return rows


def measured(rows: list[Row]) -> dict[str, str]:
    """The metrics that every row has, and what people call them."""
    return {key: words for key, words in METRICS.items() if all(getattr(row, key) is not None for row in rows)}


def tiers(rows: list[Row]) -> list[str]:
    return sorted({row.tier for row in rows})


def level(rows: list[Row], tier: str, model: str, metric: str) -> Estimate:
    """A model's metric on a tier, over seeds."""
    return estimate(_by_seed(rows, tier, model, metric))


def difference(rows: list[Row], tier: str, pair: tuple[str, str], metric: str) -> Estimate:
    """The paired difference of two models on a tier, over seeds."""
    return estimate(_by_seed(rows, tier, pair[0], metric) - _by_seed(rows, tier, pair[1], metric))


def write_rows(path: Path, rows: list[Row]) -> None:
    """Every row as CSV, or as JSON if the name ends in ``.json``."""
    if path.suffix == ".json":
        write_atomic(path, (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode())
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomic(path, text.getvalue().encode())


def _by_seed(rows: list[Row], tier: str, model: str, metric: str) -> NDArray[np.float64]:
    """The mean over the tier's hospitals, one value a seed, in the order of seeds."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (row.tier, row.model) == (tier, model):
            found.setdefault(row.seed, []).append(float(getattr(row, metric)))
    return np.asarray([np.mean(found[seed]) for seed in sorted(found)])


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Of one value a seed; Student's t at 95 %."""
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"), float("nan"))
    from scipy.stats import t

    deviation = float(values.std(ddof=1))
    half_width = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return Estimate(float(values.mean()), deviation, half_width)
