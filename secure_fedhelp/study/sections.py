"""The sections of a study plan, each a frozen value that is validated on its own; plan.py holds them together."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from secure_fedhelp.study.threshold import Masks

Signatures = Literal["ed25519", "ed25519+ml-dsa-65"]
Tier = Literal["large", "small"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PATH = r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"
#: ``package.module:name``, code that whoever runs the plan imports.
ImportPath = Annotated[str, Field(pattern=f"^{_PATH}$")]


class Strict(BaseModel):
    """Frozen, unknown keys refused, and no NaN or infinity anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudySection(Strict):
    name: Name
    rounds: int = Field(ge=1, le=10_000)
    #: Public seed of model initialisation and of the order of public steps. Never of privacy noise in deployment.
    seed: int = Field(ge=0, lt=2**31)
    #: With ML-DSA-65 (FIPS 204) every signature is two, and both must hold: nobody forges one by a quantum computer.
    signatures: Signatures = "ed25519"
    #: ``research``: hospitals also train local baselines and report metrics on the plan's test set.
    mode: Literal["research", "deployment"] = "deployment"

    @property
    def keeps_values(self) -> bool:
        """Whether hospitals keep what they released and each sum: a research study, to measure the encryption's error.
        Elsewhere nobody needs them after their round."""
        return self.mode == "research"


class Column(Strict):
    """One column of a table. Centre and scale are public constants (of the public set), never of private records."""

    name: str = Field(min_length=1)
    kind: Literal["numeric", "categorical"]
    center: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    categories: tuple[str, ...] = ()
    #: One more feature: 1 where the value is missing.
    missing_indicator: bool = False
    #: Of a categorical column, one more feature: 1 for a value that ``categories`` does not list; else it is refused.
    other: bool = False

    @model_validator(mode="after")
    def _categories_fit(self) -> Column:
        if (self.kind == "categorical") != bool(self.categories):
            raise ValueError(f"column {self.name!r}: categories are for categorical columns, and those need some")
        if self.other and self.kind != "categorical":
            raise ValueError(f"column {self.name!r}: other is for categorical columns")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A plan's hash is of all its values, and plans are older than these two: off is written as absent.
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if value or key not in ("missing_indicator", "other")}

    @property
    def listed(self) -> int:
        """Features of a value that is listed: one of a number, one for each category."""
        return len(self.categories) or 1

    @property
    def width(self) -> int:
        """All features: of the value, then ``other``, then the indicator of a missing value."""
        return self.listed + self.other + self.missing_indicator


class DataSection(Strict):
    dataset: str
    kind: Literal["table", "image"]
    #: ``segmentation``: labels are masks [height, width] of class numbers, and class 0 is the background.
    task: Literal["classification", "segmentation"] = "classification"
    classes: tuple[str, ...] = Field(min_length=2)
    #: Shape of one input as the model sees it: (features,) for a table, (channels, height, width) for an image.
    input_shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()
    target: str = "target"
    patient_id: str = "patient_id"
    #: Raw values of image files (PNG, JPEG, DICOM, NIfTI) that are taken as black and white; what is beyond is cut.
    intensity: tuple[float, float] = (0.0, 255.0)
    public_sha256: Sha256
    public_records: int = Field(ge=1)
    public_labelled: bool = True

    @model_validator(mode="after")
    def _intensity_rises(self) -> DataSection:
        if self.intensity[0] >= self.intensity[1]:
            raise ValueError("intensity gives the value of black and, above it, the value of white")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> DataSection:
        if self.task == "segmentation" and self.kind != "image":
            raise ValueError("a segmentation is of images: kind = 'image'")
        return self

    @property
    def masked(self) -> bool:
        """Whether labels are masks."""
        return self.task == "segmentation"

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of a model's logits on one input: (classes,), or (classes, height, width) for a segmentation."""
        return (len(self.classes), *(self.input_shape[1:] if self.masked else ()))

    @property
    def public_elements(self) -> int:
        return self.public_records * math.prod(self.input_shape)


Architecture = Annotated[str, Field(pattern=f"^([a-z][a-z0-9-]*|{_PATH})$")]


#: Who trains alone: a tier from nothing, or from the public warm start; that one takes its tier's rate if it has none.
LocalRival = Literal[Tier, "large-warm", "small-warm"]


class ModelSection(Strict):
    #: Architectures by the names in ``learning/networks.py``, or a network of your own by its import path; ``small`` is
    #: the surrogate's and the proxy's shape.
    small: Architecture
    large: Architecture
    #: SHA-256 of what these networks hold and no training changes: frozen parameters and buffers. With it every
    #: hospital signs that they are public and everywhere the same (learning/models.py).
    small_constants: Sha256 | None = None
    large_constants: Sha256 | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A plan of before these keys keeps its hash.
        return {key: value for key, value in dump(self).items() if value is not None}

    def constants(self, architecture: str) -> str | None:
        """The SHA-256 that the plan names for this network."""
        return self.small_constants if architecture == self.small else self.large_constants

    def of(self, tier: Tier) -> str:
        """The network that a hospital of this tier trains for itself."""
        return self.large if tier == "large" else self.small


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
    #: Steps of a large hospital's own network at home, times the rounds of the study.
    pupil_steps: int = Field(ge=0)
    pupil_learning_rate: float = Field(gt=0)
    personal_steps: int = Field(ge=0)
    personal_learning_rate: float = Field(gt=0)
    home_batch: int = Field(default=32, ge=1)
    #: Weight of the shared model's soft outputs where models that stay at home are trained.
    home_soft_weight: float = Field(default=0.0, ge=0)
    #: Public class frequencies for logit adjustment, one a class; empty: off. Never counted in private records.
    class_prior: tuple[Annotated[float, Field(gt=0)], ...] = ()
    #: Research mode: learning rates of the rival that trains alone under the budget, so that it is not judged by the
    #: study's: alone the noise is larger, and a warm start is lost to long noisy steps sooner than nothing is.
    local_learning_rates: dict[LocalRival, Annotated[float, Field(gt=0)]] = {}
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


Length = Annotated[int, Field(ge=0, le=2**28)]
#: What a channel carries may come out of (privacy/entries.py); zeros that everybody knows are allowed in each.
Declared = Literal["dp-sgd", "post-processing", "gaussian", "counts"]


class ChannelSection(Strict):
    """A real vector that hospitals sum: its length, a bound on the size of each value, and which mechanism it is of.

    What a channel means is its method's affair; what may be said through it is fixed here, where hospitals sign it.
    """

    name: Name
    #: Values in every training round, or one number a training round; with 0 the channel is silent in it.
    length: Length | tuple[Length, ...]
    bound: float = Field(gt=0)
    #: ``dp-sgd``: parameters after private training. ``post-processing``: computed from released and public things.
    #: ``gaussian``: an answer about the records with Gaussian noise of its own. ``counts``: see ``[metrics]``. May be
    #: left out of a standard channel, as may ``combine``.
    mechanism: Declared
    #: ``weighted-mean`` by the hospitals' public weights, ``mean``, or ``sum``.
    combine: Literal["weighted-mean", "mean", "sum"] = "weighted-mean"
    #: Of a ``gaussian`` channel: the L2 norm that one patient's contribution is clipped to, and the noise over it.
    sensitivity: float | None = Field(default=None, gt=0)
    noise_multiplier: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _standard(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") in STANDARD:
            return dict(zip(("mechanism", "combine"), STANDARD[values["name"]], strict=True)) | values
        return values

    @model_validator(mode="after")
    def _complete(self) -> ChannelSection:
        if not (self.length if isinstance(self.length, int) else any(self.length)):
            raise ValueError(f"the channel {self.name!r} has no values in any round")
        noised = self.mechanism == "gaussian"
        if (self.sensitivity is not None, self.noise_multiplier is not None) != (noised, noised):
            raise ValueError(f"{self.name!r}: gaussian channels, and no others, need sensitivity and noise_multiplier")
        if (self.name in STANDARD) and (self.mechanism, self.combine) != STANDARD[self.name]:
            raise ValueError(f"{self.name!r} is always {' and '.join(STANDARD[self.name])}")
        if (self.mechanism == "counts") != (self.name == "metrics"):
            raise ValueError(f"{self.name!r}: counts are for the channel 'metrics', and that carries nothing else")
        return self

    @property
    def largest(self) -> int:
        """The most values that a round has of this channel."""
        return self.length if isinstance(self.length, int) else max(self.length)


#: Channels whose names policies know, so a plan may not give them another meaning: mechanism, and how combined.
STANDARD: dict[str, tuple[Declared, str]] = {
    "model-update": ("dp-sgd", "weighted-mean"),
    "public-logits": ("post-processing", "weighted-mean"),
    "metrics": ("counts", "sum"),
}


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
