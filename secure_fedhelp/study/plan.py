"""The study plan: one TOML file that fixes everything public about a study.

Whatever the plan fixes cannot depend on a hospital's records: nominal sizes, sampling rates, expected batch sizes,
weights, channel lengths and bounds are constants that every hospital reads and signs before it trains. The hash of the
canonical form names the study; a changed plan is another study.
"""

from __future__ import annotations

import math
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan, NotOnRoster
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.files import read_regular
from secure_fedhelp.study.threshold import Masks, active_coalition, passive_coalition

#: Hospitals whose hybrid signatures, 3373 bytes each, travel in one message of a mebibyte with room to spare.
_LARGEST_HYBRID = 256
Signatures = Literal["ed25519", "ed25519+ml-dsa-65"]
Tier = Literal["large", "small"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, unknown keys refused, and no NaN or infinity anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudySection(Strict):
    name: Name
    method: Literal["fedhelp"] = "fedhelp"
    rounds: int = Field(ge=1, le=10_000)
    #: Public seed of model initialisation and of the order of public steps. Never of privacy noise in deployment.
    seed: int = Field(ge=0, lt=2**31)
    #: With ML-DSA-65 (FIPS 204) every signature is two, and both must hold: nobody forges one by a quantum computer.
    signatures: Signatures = "ed25519"
    #: ``research``: hospitals also train local baselines and report metrics on the plan's test set.
    mode: Literal["research", "deployment"] = "deployment"


class Column(Strict):
    """One column of a table. Centre and scale are public constants (of the public set), never of private records."""

    name: str = Field(min_length=1)
    kind: Literal["numeric", "categorical"]
    center: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    categories: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _categories_fit(self) -> Column:
        if (self.kind == "categorical") != bool(self.categories):
            raise ValueError(f"column {self.name!r}: categories are for categorical columns, and those need some")
        return self


class DataSection(Strict):
    dataset: str
    kind: Literal["table", "image"]
    classes: tuple[str, ...] = Field(min_length=2)
    #: Shape of one input as the model sees it: (features,) for a table, (channels, height, width) for an image.
    input_shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    target: str = "target"
    patient_id: str = "patient_id"
    public_sha256: Sha256
    public_records: int = Field(ge=1)
    public_labelled: bool = True

    @property
    def public_elements(self) -> int:
        return self.public_records * math.prod(self.input_shape)


class ModelSection(Strict):
    #: Architectures by the names in ``learning/models.py``; ``small`` is the surrogate's and the proxy's shape.
    small: str
    large: str


class LearningSection(Strict):
    private_learning_rate: float = Field(gt=0)
    public_learning_rate: float = Field(gt=0)
    public_steps: int = Field(ge=0)
    #: Public steps before the first round, from the plan's seed: the warm start everybody shares.
    warm_steps: int = Field(default=0, ge=0)
    public_batch: int = Field(ge=1)
    temperature: float = Field(default=1.0, gt=0)
    #: mu of the methods' equations: weight of the foundation teacher on the public set.
    teacher_weight: float = Field(default=1.0, ge=0)
    #: Weight of the aggregated ensemble's soft outputs on the public set.
    ensemble_weight: float = Field(default=1.0, ge=0)
    #: eta: weight of the ranking loss, the only thing that flows from weak to strong.
    ranking_weight: float = Field(default=0.2, ge=0)
    #: k of the ranking loss; 1 for two classes.
    ranking_top: int = Field(default=1, ge=1)
    #: Large model and proxy trained as one jointly clipped module; off means the large model is a pupil.
    twin: bool = False
    pupil_steps: int = Field(ge=0)
    pupil_learning_rate: float = Field(gt=0)
    personal_steps: int = Field(ge=0)
    personal_learning_rate: float = Field(gt=0)
    home_batch: int = Field(default=32, ge=1)
    #: Weight of the shared model's soft outputs where models that stay at home are trained.
    home_soft_weight: float = Field(default=0.0, ge=0)
    #: Public class frequencies for logit adjustment, one a class; empty: off. Never counted in private records.
    class_prior: tuple[Annotated[float, Field(gt=0)], ...] = ()
    #: Research mode: a tier's learning rate for the local-only rival, so that it is not judged by the study's.
    local_learning_rates: dict[Tier, Annotated[float, Field(gt=0)]] = {}
    weight_decay: float = Field(default=1e-4, ge=0)


class PrivacySection(Strict):
    """DP-SGD of one tier: every figure public, so that none is computed from a private count."""

    sampling_rate: float = Field(gt=0, lt=1)
    noise_multiplier: float = Field(gt=0)
    clipping_norm: float = Field(gt=0)
    #: Private steps in one round.
    steps: int = Field(ge=1)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    unit: Literal["patient"] = "patient"


class ChannelSection(Strict):
    """A fixed-length real vector that hospitals sum: its length and a bound on the size of each value."""

    name: Literal["model-update", "public-logits", "metrics"]
    length: int = Field(ge=1, le=2**28)
    bound: float = Field(gt=0)

    @property
    def weighted(self) -> bool:
        """Whether hospitals multiply by their public weight, so that the sum is a weighted mean. Counts are counts."""
        return self.name != "metrics"


class MetricsSection(Strict):
    """How well the study's model does on records that hospitals set aside; measured in a round after the last.

    ``pooled``: exact counts leave inside the encrypted sum, which is opened: **no differential privacy**. ``noised``:
    each hospital adds Gaussian noise to its counts first, and pays for it.
    """

    release: Literal["pooled", "noised"]
    #: Of each histogram of scores.
    bins: int = Field(default=40, ge=2, le=1000)
    noise_multiplier: float | None = Field(default=None, gt=0)
    #: Public. Counts travel divided by it, so that they fit the encryption beside everything else. A hospital's counts
    #: are cut at this times the channel's bound; exact ones come out whole if sums err by less than half its inverse.
    divisor: int = Field(default=500, ge=1, le=2**24)

    @model_validator(mode="after")
    def _noise_fits(self) -> MetricsSection:
        if (self.release == "noised") != (self.noise_multiplier is not None):
            raise ValueError("noise_multiplier is for noised metrics, and those need one")
        return self

    def length(self, classes: int) -> int:
        """Counts in the channel: a confusion matrix, and for each class two histograms of its scores."""
        return classes * classes + 2 * classes * self.bins

    def squared_sensitivity(self, classes: int) -> int:
        """Squared L2 distance that one patient makes: one record of each is counted, once in the matrix and once for
        each class."""
        return 1 + classes


class AggregationSection(Strict):
    #: A profile by its name (secagg/profiles.py) ...
    profile: str | None = None
    #: ... or the largest error a value of the sum may have, and the cheapest profile that keeps it is taken.
    required_error: float | None = Field(default=None, gt=0)
    #: Fewer hospitals than this in a round, and nothing is summed.
    minimum_cohort: int = Field(ge=2)
    weights: Literal["precision", "uniform"] = "precision"
    round_deadline_seconds: float = Field(default=600, gt=0)
    gather_deadline_seconds: float = Field(default=3600, gt=0)
    #: For each of the short steps of the masks (keys, shares, agreement, reveal), once the uploads are ready.
    answer_deadline_seconds: float = Field(default=120, gt=0)
    key_epoch_rounds: int = Field(default=1000, ge=1)
    #: The second lock (study/threshold.py): ``none`` leaves every upload open to the coordinator with one hospital.
    masks: Masks = "repairing"
    #: ``sanitised``: what is decrypted is flooded with noise before anything is computed from it, so that all that
    #: follows may leave a hospital. ``closed``: it is not, and nothing computed from it may leave.
    decrypted: Literal["sanitised", "closed"] = "sanitised"
    #: Security, in bits, of the flooding noise (secagg/sanitise.py).
    flooding_bits: int = Field(default=30, ge=10, le=128)

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> AggregationSection:
        if (self.profile is None) == (self.required_error is None):
            raise ValueError("give either a profile or a required_error")
        return self


class HospitalSection(Strict):
    name: Name
    tier: Tier
    #: Public nominal number of patients; the true number stays private and must not be smaller than the rate needs.
    nominal_patients: int = Field(ge=2)


class StudyPlan(Strict):
    study: StudySection
    consortium: Name
    data: DataSection
    model: ModelSection
    learning: LearningSection
    privacy: dict[Tier, PrivacySection]
    aggregation: AggregationSection
    channels: tuple[ChannelSection, ...] = Field(min_length=1)
    hospitals: tuple[HospitalSection, ...] = Field(min_length=2)
    metrics: MetricsSection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StudyPlan:
        names = [h.name for h in self.hospitals]
        if len(set(names)) != len(names):
            double = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"two hospitals with one name: {', '.join(double)}")
        if len({c.name for c in self.channels}) != len(self.channels):
            raise ValueError("two channels with one name")
        missing = {h.tier for h in self.hospitals} - set(self.privacy)
        if missing:
            raise ValueError(f"no [privacy.{missing.pop()}] section for a tier that has hospitals")
        if self.aggregation.minimum_cohort > len(self.hospitals):
            raise ValueError("minimum_cohort is larger than the number of hospitals")
        if self.study.mode == "research" and self.aggregation.decrypted == "closed":
            raise ValueError("research mode publishes metrics, so its sums must be sanitised")
        if self.study.signatures != "ed25519" and len(self.hospitals) > _LARGEST_HYBRID:
            raise ValueError(f"with ML-DSA-65 at most {_LARGEST_HYBRID} hospitals: their signatures fill a message")
        if len(self.data.input_shape) != (1 if self.data.kind == "table" else 3):
            raise ValueError("input_shape is (features,) for a table, (channels, height, width) for an image")
        if self.data.kind == "table" and not self.data.columns:
            raise ValueError("a table needs its columns")
        self._metrics_fit()
        return self

    def _metrics_fit(self) -> None:
        channel = next((c for c in self.channels if c.name == "metrics"), None)
        if (self.metrics is None) != (channel is None):
            raise ValueError("a section [metrics] and a channel 'metrics' go together")
        if self.metrics is None or channel is None:
            return
        if channel.length != (wanted := self.metrics.length(len(self.data.classes))):
            raise ValueError(f"the channel 'metrics' has {channel.length} values, {wanted} are needed")
        if self.metrics.release == "pooled" and self.aggregation.minimum_cohort < 3:
            raise ValueError("exact counts of two hospitals tell each the other's: minimum_cohort must be 3 or more")
        if self.study.rounds < 2:
            raise ValueError("metrics are measured in the last round, so at least two rounds are needed")

    @cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 of the plan's canonical form: the study's name on the wire and in every signature."""
        return digest(self.model_dump(mode="json"))

    def hospital(self, name: str) -> HospitalSection:
        """The plan's entry for a hospital; KeyError if it is not on the roster."""
        return next((h for h in self.hospitals if h.name == name), None) or _missing(name)

    def require_listed(self, name: str) -> None:
        """NotOnRoster if no hospital of this plan has that name."""
        if name not in {h.name for h in self.hospitals}:
            raise NotOnRoster(f"the plan does not list {name}")

    def privacy_of(self, name: str) -> PrivacySection:
        return self.privacy[self.hospital(name).tier]

    def channel(self, name: str) -> ChannelSection:
        return next(c for c in self.channels if c.name == name)

    @cached_property
    def coalition(self) -> tuple[int, int]:
        """Hospitals that, beside a coordinator that follows the protocol and beside one that lies, open no upload.

        The least over all numbers of hospitals that a round of this plan may begin with.
        """
        sizes = range(self.aggregation.minimum_cohort, len(self.hospitals) + 1)
        masks = self.aggregation.masks
        return min(passive_coalition(masks, n) for n in sizes), min(active_coalition(masks, n) for n in sizes)

    @property
    def measuring_round(self) -> int | None:
        """The last round (from 0) of a plan with ``[metrics]``: nothing is trained in it, the model is measured."""
        return None if self.metrics is None else self.study.rounds - 1

    @property
    def training_rounds(self) -> int:
        return self.study.rounds - (self.metrics is not None)

    @property
    def total_length(self) -> int:
        """Values in one contribution: all channels of a round, packed one after another in the plan's order."""
        return sum(c.length for c in self.channels)

    @property
    def largest_sum(self) -> float:
        """The largest value that a sum of this plan's hospitals can have."""
        total, hospitals = sum(self.weights.values()), len(self.hospitals)
        return max(channel.bound * (total if channel.weighted else hospitals) for channel in self.channels)

    @cached_property
    def weights(self) -> dict[str, float]:
        """Public weight of each hospital, the largest being 1 (so that a weighted value keeps its channel's bound).

        Precision weights are (q n / sigma)^2: the expected batch over the noise multiplier is the signal-to-noise
        ratio of one DP-SGD step, and independent estimates are combined best by the inverse of their variances.
        """
        if self.aggregation.weights == "uniform":
            return {h.name: 1.0 for h in self.hospitals}
        raw = {}
        for h in self.hospitals:
            p = self.privacy[h.tier]
            raw[h.name] = (p.sampling_rate * h.nominal_patients / p.noise_multiplier) ** 2
        largest = max(raw.values())
        return {name: value / largest for name, value in raw.items()}


def _missing(name: str) -> HospitalSection:
    raise KeyError(name)


def parse_plan(values: dict[str, Any], source: str = "plan") -> StudyPlan:
    """A validated plan from plain values; InvalidPlan names every key that is wrong."""
    try:
        return StudyPlan.model_validate(values)
    except ValidationError as error:
        raise InvalidPlan(f"{source}: {explain(error)}") from error


def load_plan(path: Path) -> StudyPlan:
    """Read and check a plan file; raises InvalidPlan."""
    return parse_plan(read_toml(path, InvalidPlan), str(path))


def read_toml(path: Path, error_class: type[InvalidPlan] | type[Any]) -> dict[str, Any]:
    """A TOML file as plain values; a missing or malformed file raises ``error_class`` with the place."""
    try:
        return tomllib.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise error_class(f"{path}: no such file") from error
    except OSError as error:
        raise error_class(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets in brackets without an end
        raise error_class(f"{path}: {error}") from error


def read_json(path: Path, model: type[Model], hint: str) -> Model:
    """A JSON file as ``model``; InvalidConfiguration with ``hint`` if it cannot be read, or naming every wrong key."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidConfiguration(f"{path}: {error.strerror}", hint) from error
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {explain(error)}", hint) from error


#: More faults than this in one file or message are counted and not named.
_NAMED_FAULTS = 64


def explain(error: ValidationError) -> str:
    """Pydantic's complaints on one line, each with its dotted place; only their number if there are too many.

    A hostile message can be wrong in a hundred thousand places, and naming each would cost far more than its size.
    """
    if error.error_count() > _NAMED_FAULTS:
        return f"{error.error_count()} faults"
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        place = ".".join(str(p) for p in item["loc"])
        parts.append(f"{place}: {item['msg']}" if place else str(item["msg"]))
    return "; ".join(parts)
