"""A study file: what a researcher writes to have a study simulated. Everything else follows from data set and method.

name = "heart"
dataset = "heart"
epsilon = 3.0

[method]
name = "fedhelp"

[learning]              # optional: values of the plan's section of that name (docs/plan.md)
private_learning_rate = 0.3

[partition]             # optional: how the patients are dealt to hospitals (docs/data.md)
kind = "dirichlet"
alpha = 0.5

[public]                # optional: another public set than the usual one (research/public_part.py)
share = 0.01
labelled = false

[teacher]               # optional: a weaker teacher, none, or two (research/teacher_part.py)
records = 20

In place of ``dataset`` a section ``[data]`` names a table, image set or image files of one's own, with ``[parts]`` and
``[partition]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from secure_fedhelp.data.reading import Reading
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.study.methods import MethodSection
from secure_fedhelp.study.plan import explain, read_toml
from secure_fedhelp.study.reading import STUDY_FILE
from secure_fedhelp.study.sections import Column, ModelSection, Name, Strict, Tier
from secure_fedhelp.study.threshold import Masks

Share = Annotated[float, Field(gt=0)]
#: The hospitals of the catalog's studies where the data names none: three large and three small ones.
SHARES: dict[str, float] = {
    "large-1": 0.60,
    "large-2": 0.20,
    "large-3": 0.08,
    "small-1": 0.06,
    "small-2": 0.04,
    "small-3": 0.02,
}
LARGE = ("large-1", "large-2", "large-3")
#: Data sets of the catalog that are images, and so may be another's public set.
IMAGE_SETS = ("breast", "pneumonia", "retina")


class SitePartition(Strict):
    """Hospitals as the records came: a column (of a table) or array (of an NPZ) names each record's."""

    kind: Literal["site"]
    column: str = "site"
    #: Hospitals of the large tier; the others are small.
    large: tuple[Name, ...] = ()
    #: Fewest patients of a hospital.
    minimum_patients: int = Field(default=5, ge=2)


class SizesPartition(Strict):
    """Hospitals of these shares (relative sizes), every class in the same proportion."""

    kind: Literal["sizes"]
    shares: dict[Name, Share] = Field(default=SHARES, min_length=3)
    large: tuple[Name, ...] = LARGE
    minimum_patients: int = Field(default=5, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _own_tiers(cls, values: Any) -> Any:
        # Whoever names hospitals says which are large; the default's would be strangers among them.
        if isinstance(values, Mapping) and "shares" in values and "large" not in values:
            return {**values, "large": ()}
        return values

    @model_validator(mode="after")
    def _large_have_shares(self) -> SizesPartition:
        if strangers := [name for name in self.large if name not in self.shares]:
            raise ValueError(f"large names hospitals without a share: {', '.join(strangers)}")
        return self


class DirichletPartition(SizesPartition):
    """Hospitals of these shares, each with its own mixture of classes (data/partition.py); small alpha, great skew."""

    kind: Literal["dirichlet"]  # type: ignore[assignment]
    alpha: float = Field(gt=0, le=1e6)


Partition = Annotated[SitePartition | SizesPartition | DirichletPartition, Field(discriminator="kind")]


class OwnData(Strict):
    """Data of one's own, for simulations: a table (``.csv``, ``.parquet``) or an image set (``.npz``); with
    ``input_shape`` image files, which are a folder of pairs or listed by an index (``.csv``, ``.parquet``)."""

    #: Relative to the study file.
    path: Path
    #: Of a table or of image files: the column with the class, and the one with the patient.
    target: str = "target"
    patient: str = "patient_id"
    #: Classes in the order of their numbers; of a table, if absent, those of the public part.
    classes: tuple[str, ...] = ()
    #: Columns of a table as in a plan, each in place of what would be inferred; all others are inferred from the public
    #: part alone, but for target, patient, site and split ...
    columns: tuple[Column, ...] = ()
    #: ... or left out: only the columns that are listed here are taken.
    columns_only: bool = False
    #: Columns of a table that are not taken, such as what is known only after the outcome.
    exclude: tuple[str, ...] = ()
    #: A column (of a table, of an index, of ``patients.csv``) or an array (of an NPZ) that says of each record which
    #: part it is of (research/official.py).
    split: str | None = Field(default=None, min_length=1)
    #: Of image files: channels, height and width to which each is brought ...
    input_shape: tuple[Literal[1, 3], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    #: ... and the raw values that are black and white; 0 and 255 if absent.
    intensity: tuple[float, float] | None = None
    #: How tables and indexes are written: separators, decimal comma, spellings of one patient. Absent: as usual.
    reading: Reading | None = None

    @property
    def files(self) -> bool:
        """Whether these are image files: only they have to be brought to one shape."""
        return self.input_shape is not None

    @property
    def listed(self) -> bool:
        """Whether the path is of a table: of records, or an index of image files."""
        return self.path.suffix.lower() in (".csv", ".parquet")

    @property
    def table(self) -> bool:
        return self.listed and not self.files

    @model_validator(mode="after")
    def _known_format(self) -> OwnData:
        if self.files and self.path.suffix == ".npz":
            raise ValueError("input_shape is of image files, and an .npz has images of one shape: leave it out")
        if not self.files and not self.listed and self.path.suffix != ".npz":
            hint = "of a folder of image files say what they are brought to: input_shape = [channels, height, width]"
            raise ValueError(f"path is a .csv, .parquet or .npz file, not {self.path.name!r}; {hint}")
        if self.intensity is not None and not (self.files and self.intensity[0] < self.intensity[1]):
            raise ValueError("intensity is of image files (input_shape): the value of black and, above it, of white")
        if not self.table and (len(self.classes) < 2 or self.columns or self.exclude or self.columns_only):
            raise ValueError("an image set has no columns, and its classes have to be named: classes = [...]")
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> OwnData:
        listed = [column.name for column in self.columns]
        if double := [name for name in listed if listed.count(name) > 1]:
            raise ValueError(f"columns names {double[0]!r} twice")
        if both := [name for name in self.exclude if name in listed]:
            raise ValueError(f"exclude and columns both name {both[0]!r}: is it taken, or not?")
        if self.columns_only and not self.columns:
            raise ValueError("columns_only takes the columns that are listed, and none is: columns = [...]")
        if self.target in self.exclude:
            raise ValueError(f"exclude names {self.target!r}, the target: it is what is predicted, and no input anyway")
        roles = {self.target: "the target", self.patient: "the patient", self.split: "the split"}
        if wrong := [name for name in listed if name in roles]:
            raise ValueError(f"columns names {wrong[0]!r}, {roles[wrong[0]]}: nothing may be learnt from it")
        return self


class Parts(Strict):
    """Patients set aside before the rest is dealt to hospitals; each 0 where the data say who they are."""

    #: Known to everybody; in the simulation it also gives the schema's public constants.
    public: int = Field(default=0, ge=0)
    #: Train the foundation model, and belong to no hospital.
    reference: int = Field(default=0, ge=0)
    #: Also 0 where the file has a test part of its own (MedMNIST's layout).
    test: int = Field(default=0, ge=0)


class PublicPart(Strict):
    """Another public set than the usual one: of another size, without labels, or from elsewhere.

    ``records`` and ``share`` count patients, and a patient comes with all of its records.
    """

    records: int | None = Field(default=None, ge=1)
    #: Of the patients that are neither test nor reference.
    share: float | None = Field(default=None, gt=0, lt=1)
    labelled: bool = True
    #: All of it from this hospital, which loses these patients ...
    hospital: Name | None = None
    #: ... or images of this data set of the catalog, without labels.
    dataset: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _strangers_have_no_labels(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("dataset") is not None:
            return {"labelled": False, **values}
        return values

    @model_validator(mode="after")
    def _one_of_each(self) -> PublicPart:
        if self.records is not None and self.share is not None:
            raise ValueError("give records or share, not both")
        if self.dataset is None:
            return self
        if self.hospital is not None:
            raise ValueError("give a hospital or a dataset, not both: the public set comes from one place")
        if self.dataset not in IMAGE_SETS:
            known = ", ".join(IMAGE_SETS)
            raise ValueError(f"dataset is an image data set of the catalog ({known}), not {self.dataset!r}")
        if self.labelled:
            raise ValueError("labels of another data set are of other classes: leave labelled out, or say false")
        return self


class SecondTeacher(Strict):
    """What a teacher is trained on: fewer patients, or wrong labels."""

    #: Reference patients that it is trained on; all if absent.
    records: int | None = Field(default=None, ge=2)
    #: Share of the reference records whose labels are dealt anew among them.
    shuffled: float = Field(default=0.0, ge=0, le=1)


class TeacherPart(SecondTeacher):
    """Another teacher than the usual one: trained on fewer patients, on wrong labels, or none at all; or two."""

    kind: Literal["usual", "none"] = "usual"
    #: A second one beside it, from which hospitals learn as well.
    second: SecondTeacher | None = None

    @model_validator(mode="after")
    def _none_has_no_training(self) -> TeacherPart:
        if self.kind == "none" and (self.records is not None or self.shuffled or self.second is not None):
            raise ValueError("kind = 'none' is no teacher at all: leave records, shuffled and second out")
        return self


Weights = Literal["precision", "uniform"]


class PrivacyPart(Strict):
    """Other private steps than the data set's usual ones. The noise follows from them and the budget."""

    clipping_norm: float | None = Field(default=None, gt=0)
    #: By tier: the share of its patients that a step draws, and the steps of a round.
    sampling_rate: dict[Tier, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    steps: dict[Tier, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class Variant(Strict):
    """A change of the study under a name of its own, such as a method without one of its ingredients.

    A section takes the place of the file's whole section; ``learning`` is added to it, value by value.
    """

    method: MethodSection | None = None
    learning: dict[str, Any] = Field(default_factory=dict)
    hospitals: tuple[str, ...] = ()
    public: PublicPart | None = None
    teacher: TeacherPart | None = None
    model: ModelSection | None = None
    partition: Partition | None = None
    privacy: PrivacyPart | None = None
    weights: Weights | None = None


class StudyFile(Strict):
    """One study to simulate. Absent values are the data set's defaults (research/plans.py)."""

    name: Name
    #: One of the catalog's (research/catalog.py) ...
    dataset: str | None = None
    #: ... or data of one's own.
    data: OwnData | None = None
    parts: Parts | None = None
    #: Of a data set of the catalog: in place of its own.
    partition: Partition | None = None
    #: In place of the usual public set, and of the usual teacher.
    public: PublicPart | None = None
    teacher: TeacherPart | None = None
    #: In place of the data set's networks.
    model: ModelSection | None = None
    #: Of the split, the weights, the order of batches, and in a simulation of the noise.
    seed: int = Field(default=1, ge=0, lt=2**31)
    rounds: int | None = Field(default=None, ge=1)
    epsilon: float | None = Field(default=None, gt=0)
    masks: Masks = "repairing"
    method: MethodSection | None = None
    privacy: PrivacyPart | None = None
    #: How much a hospital counts in a mean: by the precision of what it sends (absent: so), or all alike.
    weights: Weights | None = None
    #: Values that replace the data set's in the plan's [learning].
    learning: dict[str, Any] = Field(default_factory=dict)
    #: Those of the data set's hospitals that take part; all if none is named.
    hospitals: tuple[str, ...] = ()
    #: Of [data] with hospitals as they are: a site with fewer patients in the file is left out.
    smallest_site: int | None = Field(default=None, ge=1)
    #: For sweeps: what else may be named among the methods.
    variants: dict[Name, Variant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> StudyFile:
        if (self.dataset is None) == (self.data is None):
            raise ValueError("give either a dataset or a section [data]")
        if self.data is None and self.parts is not None:
            raise ValueError("[parts] is of [data]: a dataset has its own")
        if self.data is not None and self.data.split is None:
            if self.parts is None:
                raise ValueError("[data] needs [parts]: how many patients are public, for reference and for the test")
            if short := [name for name in ("public", "reference") if not getattr(self.parts, name)]:
                raise ValueError(f"[parts] {short[0]} is needed: how many patients, at least 1")
        if self.data is not None and self.partition is None:
            raise ValueError("[data] needs a [partition]: kind = 'site', 'sizes' or 'dirichlet'")
        return self

    @model_validator(mode="after")
    def _sites_are_as_they_came(self) -> StudyFile:
        if self.smallest_site is None:
            return self
        if self.data is None:
            raise ValueError(
                "smallest_site is of [data]; of a data set's hospitals name those that take part: hospitals"
            )
        kinds = [self.partition, *(v.partition for v in self.variants.values() if v.partition is not None)]
        if any(not isinstance(kind, SitePartition) for kind in kinds):
            raise ValueError(
                "smallest_site is of hospitals as they came, kind = 'site': shares say how large others are"
            )
        return self

    @model_validator(mode="after")
    def _public_fits(self) -> StudyFile:
        named = {"[public]": self.public} | {f"[variants.{name}] public": v.public for name, v in self.variants.items()}
        for place, public in named.items():
            if public is None:
                continue
            table = self.data.table if self.data else self.dataset not in IMAGE_SETS
            if public.dataset is not None and table:
                raise ValueError(f"{place}: the study is of a table, and dataset = {public.dataset!r} has images")
            if public.dataset is not None and public.dataset == self.dataset:
                raise ValueError(f"{place}: dataset = {public.dataset!r} is the study's own; leave it out")
            if self.data is not None and table and not public.labelled and not self.data.classes:
                reason = "a public set without labels does not tell the classes"
                raise ValueError(f"{place}: {reason}: name them in [data], classes = [...]")
        return self

    @property
    def label(self) -> str:
        """What summaries call the data."""
        return self.dataset or self.name


def load_study(path: Path) -> StudyFile:
    """Read and check a study file; InvalidConfiguration names every wrong key."""
    if path.suffix == ".json":
        hint = "Of a sweep's asked.json, name a run: secure-fedhelp simulate OUT/asked.json --run ID."
        raise InvalidConfiguration(f"{path} is no study file, which is TOML", hint)
    try:
        study = StudyFile.model_validate(read_toml(path, InvalidConfiguration, STUDY_FILE))
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {explain(error)}", "docs/simulation.md lists every key.") from error
    if study.data is None:
        return study
    return study.model_copy(update={"data": study.data.model_copy(update={"path": path.parent / study.data.path})})
