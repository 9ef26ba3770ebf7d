"""``summary.json``: what a finished study came to, in one file that programs read and the report is made from.

Names and words may come from a file that somebody else wrote, so they are bounded and hold no control characters: a
terminal would obey those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from secure_fedhelp.errors import FedHelpError, StudyEnded
from secure_fedhelp.research.cohort import Cohort
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import StudyPlan, read_json
from secure_fedhelp.study.reading import RESULTS
from secure_fedhelp.study.sections import Sha256, Strict, Tier
from secure_fedhelp.study.threshold import Masks

#: Text without control characters and without the marks that turn the direction of writing.
Label = Annotated[
    str, Field(min_length=1, max_length=120, pattern="^[^\\x00-\\x1f\\x7f-\\x9f\u2028-\u202e\u2066-\u2069]+$")
]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[int, Field(ge=0)]


class MetricsSummary(Strict):
    """One model on the plan's test set; ``dice`` is of a segmentation, ``macro_f1`` of a classification, else null."""

    balanced_accuracy: Share
    auroc: Share
    #: Expected calibration error: the lower, the better.
    ece: Share | None = None
    dice: Share | None = None
    macro_f1: Share | None = None


class PooledSummary(Strict):
    """What a measuring round said of the shared model on records set aside at all hospitals together.

    Null where no record of a needed class was counted. With noised counts every figure is noisy: numbers of records
    may be no whole numbers, and below zero. ``confusion`` has a row for each true class.
    """

    records: float
    accuracy: Share | None
    balanced_accuracy: Share | None
    auroc: Share | None
    confusion: tuple[tuple[float, ...], ...]


class RoundSummary(Strict):
    """One published round as one hospital saw it. Epsilon and bytes are totals up to and including this round."""

    #: As in the transcript, from 0; people are shown ``round + 1``.
    round: Amount
    #: Hospitals in the sum.
    cohort: Amount
    epsilon: float = Field(ge=0)
    bytes_up: Amount
    bytes_down: Amount
    #: The shared model after this round; null where nothing was measured.
    auroc: Share | None = None
    balanced_accuracy: Share | None = None
    ece: Share | None = None
    dice: Share | None = None
    macro_f1: Share | None = None


class AggregationSummary(Strict):
    """What the locks cost: profile, bytes a value each way, the largest error of a decrypted sum; and what they stand.

    ``coalition`` is the number of hospitals that, beside a coordinator that lies, cannot open an upload.
    ``flooding_sigma`` is the standard deviation of the noise that a sanitised sum carries; null if sums are not.
    """

    profile: Label
    up_bytes_per_value: float = Field(ge=0)
    down_bytes_per_value: float = Field(ge=0)
    max_error: float = Field(ge=0)
    masks: Masks = "none"
    coalition: Amount = 0
    flooding_sigma: float | None = Field(default=None, gt=0)


class HospitalSummary(Strict):
    """One hospital. Null means not measured (deployment), or not known (a hospital that did not come back)."""

    name: Label
    tier: Tier
    patients: Amount
    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, lt=1)
    epsilon_budget: float = Field(gt=0)
    bytes_up: Amount | None = None
    bytes_down: Amount | None = None
    #: What float32 would have cost up for the same values.
    float32_bytes: Amount | None = None
    #: A budget that ended in round k paid for round k, and the hospital stopped before training for the next one.
    status: str = Field(
        default="contributed",
        pattern=r"^(contributed|budget spent before round 1"
        r"|(budget ended in|absent since|training failed in) round [1-9][0-9]{0,5})$",
    )
    study_model: MetricsSummary | None = None
    personal_model: MetricsSummary | None = None
    local_only: MetricsSummary | None = None
    local_non_private: MetricsSummary | None = None
    history: tuple[RoundSummary, ...] = ()

    @property
    def float32_factor(self) -> float | None:
        """Bytes sent over what float32 would have taken; None if either is unknown."""
        return self.bytes_up / self.float32_bytes if self.bytes_up is not None and self.float32_bytes else None


class Summary(Strict):
    """A study's results. ``rounds`` is the number of rounds that were published."""

    study: Label
    method: Label
    dataset: Label
    mode: Literal["research", "deployment"] = "research"
    rounds: Amount
    wall_seconds: float = Field(ge=0)
    peak_memory_mib: float | None = Field(default=None, ge=0)
    plan_sha256: Sha256 | None = None
    aggregation: AggregationSummary
    hospitals: tuple[HospitalSummary, ...] = Field(min_length=1)
    #: Noise that comes again from a seed, as simulations have it: whoever knows the seed can take it away.
    seeded_noise: bool = False
    #: Whether there was a foundation model to ask.
    teacher: bool = True
    #: Whether there were two.
    second_teacher: bool = False
    #: Trained on the public set and the teacher alone: what a study has to beat without any hospital.
    public_only: MetricsSummary | None = None
    #: Null in a study that does not measure.
    pooled: PooledSummary | None = None
    #: Of a simulated study: who its records are of. Of a deployed one nobody has these figures.
    cohort: Cohort | None = None

    @model_validator(mode="after")
    def _private_counts_stay(self) -> Summary:
        if self.cohort is not None and self.mode != "research":
            raise ValueError("cohort has counts of private records, which leave no hospital of a deployed study")
        return self


def cut_short(plan: StudyPlan, published: int, cause: FedHelpError | None) -> FedHelpError | None:
    """The error of a study that ended without its rounds, with how many it had; None if it had them all.

    ``cause`` is what it ended with, as far as anybody said so: its class, and so its exit code and hint, are kept.
    """
    if published >= plan.study.rounds:
        return None
    had = f"the study ended after {published} of {plan.study.rounds} rounds"
    if cause is None:
        return StudyEnded(had)
    error = type(cause)(f"{had}: {cause.message}", cause.hint)
    error.__cause__ = cause
    return error


@contextmanager
def failing_with(cause: FedHelpError | None) -> Iterator[None]:
    """Around what is made of a broken study's files: if that fails, the study's own error is what a person needs."""
    try:
        yield
    except Exception as error:
        if cause is None:
            raise
        raise cause from error


def write_summary(path: Path, summary: Summary) -> None:
    """Write ``summary.json``, keys in the order of the models above; raises StorageError."""
    text = json.dumps(summary.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_summary(path: Path) -> Summary:
    """Read ``summary.json``; InvalidConfiguration names every key that is wrong."""
    return read_json(path, Summary, "Give the summary.json of a finished run.", RESULTS)
