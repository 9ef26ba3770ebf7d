"""The study plan: one TOML file that fixes everything public about a study.

Whatever the plan fixes cannot depend on a hospital's records: nominal sizes, sampling rates, expected batch sizes,
weights, channel lengths and bounds are constants that every hospital reads and signs before it trains. The hash of the
canonical form names the study; a changed plan is another study.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan, NotOnRoster
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.methods import FedHelp, Imported, MethodSection, fitted
from secure_fedhelp.study.reading import PLAN, Kind, parse_toml, read_bounded
from secure_fedhelp.study.sections import (
    AggregationSection,
    ChannelSection,
    DataSection,
    HospitalSection,
    LearningSection,
    MetricsSection,
    ModelSection,
    Name,
    PrivacySection,
    Strict,
    StudySection,
    Tier,
)
from secure_fedhelp.study.threshold import active_coalition, passive_coalition

#: Hospitals whose hybrid signatures, 3373 bytes each, travel in one message of a mebibyte with room to spare.
_LARGEST_HYBRID = 256
Model = TypeVar("Model", bound=BaseModel)


class StudyPlan(Strict):
    study: StudySection
    consortium: Name
    data: DataSection
    model: ModelSection
    method: MethodSection = Field(default=FedHelp(), validate_default=True)
    learning: LearningSection
    privacy: dict[Tier, PrivacySection]
    aggregation: AggregationSection
    channels: tuple[ChannelSection, ...] = Field(min_length=1)
    hospitals: tuple[HospitalSection, ...] = Field(min_length=2)
    metrics: MetricsSection | None = None

    @field_validator("method")
    @classmethod
    def _defaults_are_numbers(cls, method: MethodSection, found: ValidationInfo) -> MethodSection:
        # What hospitals sign, and what the hash names, says these figures whatever a later release would take.
        known = found.data
        if "study" not in known or "data" not in known:  # these have faults of their own, which are told
            return method
        return fitted(method, known["study"].rounds, len(known["data"].classes))

    @model_validator(mode="after")
    def _consistent(self) -> StudyPlan:
        names = [h.name for h in self.hospitals]
        if len(set(names)) != len(names):
            double = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"two hospitals with one name: {', '.join(double)}")
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
        self._channels_fit()
        return self

    def _channels_fit(self) -> None:
        if len({c.name for c in self.channels}) != len(self.channels):
            raise ValueError("two channels with one name")
        for channel in self.channels:
            if isinstance(channel.length, tuple) and len(channel.length) != self.training_rounds:
                found = f"{len(channel.length)} lengths for {self.training_rounds} training rounds"
                raise ValueError(f"the channel {channel.name!r} has {found}: give one a round, or one number for all")
        silent = [number + 1 for number in range(self.study.rounds) if not self.lengths(number)]
        if silent:
            raise ValueError(f"no channel has a value in round {silent[0]}")

    def _metrics_fit(self) -> None:
        channel = next((c for c in self.channels if c.name == "metrics"), None)
        if (self.metrics is None) != (channel is None):
            raise ValueError("a section [metrics] and a channel 'metrics' go together")
        if self.metrics is None or channel is None:
            return
        if self.data.masked:
            # A patient has as many pixels as an image, so one cell of a count would change by all of them.
            raise ValueError("[metrics] counts one answer a patient, and a segmentation has one for every pixel")
        if channel.length != (wanted := self.metrics.length(len(self.data.classes))):
            raise ValueError(f"the channel 'metrics' has length {channel.length}, {wanted} is right")
        if self.metrics.release == "pooled" and self.aggregation.minimum_cohort < 3:
            raise ValueError("exact counts of two hospitals tell each the other's: minimum_cohort must be 3 or more")
        if self.study.rounds < 2:
            raise ValueError("metrics are measured in the last round, so at least two rounds are needed")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> StudyPlan:
        """As pydantic's, but nothing that was worked out of this plan is handed on: hash and weights are of a plan."""
        made = super().model_copy(update=update, deep=deep)
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                made.__dict__.pop(name, None)
        return made

    def options(self, method: type[Model]) -> Model:
        """The options of the plan's method; InvalidPlan if the plan is of another."""
        if not isinstance(self.method, method):
            raise InvalidPlan(f"the plan's method is {self.method.name}, not {method.__name__}")
        return self.method

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

    @property
    def imported(self) -> tuple[str, ...]:
        """Import paths of the method and the networks that are code from outside this project."""
        method = (self.method.path,) if isinstance(self.method, Imported) else ()
        return tuple(dict.fromkeys([*method, *(n for n in (self.model.small, self.model.large) if ":" in n)]))

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

    def lengths(self, round_number: int) -> dict[str, int]:
        """The channels of a round (from 0) in the plan's order, each with its number of values; silent ones are not
        in it. Metrics are sent in the measuring round and everything else in the others."""
        measuring, found = round_number == self.measuring_round, {}
        for channel in self.channels:
            length = channel.length if isinstance(channel.length, int) else (*channel.length, 0)[round_number]
            if length and (channel.mechanism == "counts") == measuring:
                found[channel.name] = length
        return found

    def length_of(self, round_number: int) -> int:
        """Values in one contribution of a round: its channels, packed one after another in the plan's order."""
        return sum(self.lengths(round_number).values())

    @cached_property
    def largest_length(self) -> int:
        """The most values that a round has."""
        return max(self.length_of(number) for number in range(self.study.rounds))

    def divisor(self, channel: str, cohort: Iterable[str]) -> float:
        """What the cohort's sum of a channel is divided by: the sum of its hospitals' factors, or 1 for a sum."""
        factors = [self.factor(channel, name) for name in cohort]
        return 1.0 if self.channel(channel).combine == "sum" else sum(factors)

    def factor(self, channel: str, hospital: str) -> float:
        """What a hospital multiplies its values of a channel by before it encrypts them, in (0, 1]."""
        return self.weights[hospital] if self.channel(channel).combine == "weighted-mean" else 1.0

    @property
    def largest_sum(self) -> float:
        """The largest value that a sum of this plan's hospitals can have."""
        return max(c.bound * sum(self.factor(c.name, h.name) for h in self.hospitals) for c in self.channels)

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


def read_toml(path: Path, error_class: type[InvalidPlan] | type[Any], kind: Kind = PLAN) -> dict[str, Any]:
    """A TOML file as plain values; a missing, oversized or malformed one raises ``error_class`` with the place."""
    try:
        return parse_toml(read_bounded(path, kind))
    except FileNotFoundError as error:
        raise error_class(f"{path}: no such file") from error
    except OSError as error:
        raise error_class(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # also a number of 5,000 digits
        raise error_class(f"{path}: {error}") from error


def read_json(path: Path, model: type[Model], hint: str, kind: Kind) -> Model:
    """A JSON file as ``model``; InvalidConfiguration with ``hint`` if it cannot be read, or naming every wrong key."""
    try:
        return model.model_validate_json(read_bounded(path, kind))
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
