"""The data card: what a hospital should know of its own records before it trains on them.

Its figures are exact and come from private records, so they are no release and never leave: the card is for the
hospital's terminal, its log, and a file where somebody asks for one. Nothing in this project reads it back or sends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from secure_fedhelp.data import suspicion
from secure_fedhelp.data.checks import shortfall
from secure_fedhelp.data.columns import CategoryCounts, ColumnCounts, NumericCounts
from secure_fedhelp.data.counting import count_columns
from secure_fedhelp.data.greys import count_tones, grey_ends
from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.loaded import Loaded, Tones
from secure_fedhelp.data.suspicion import Suspicion
from secure_fedhelp.study.plan import StudyPlan

STAYS = "This data card stays at the hospital."
#: What features alone tell: a missing value among them is the centre, and narrows a spread or makes a column constant.
_TOLD_BY_FEATURES = ("middle", "cut", "other")


@dataclass(frozen=True)
class DataCard:
    """Counts of one hospital's records. ``classes``: records of each class, or pixels where labels are masks."""

    patients: int
    nominal_patients: int
    records: int
    #: Fewest, median and most records of one patient.
    records_a_patient: tuple[int, float, int]
    classes: Mapping[str, int]
    masked: bool
    #: Of a table, in the plan's order; empty for images.
    columns: tuple[ColumnCounts, ...]
    shape: tuple[int, ...]
    #: Smallest and largest value as the model sees it, and as a grey value between 0 (black) and 1 (white).
    intensity: tuple[float, float] | None
    #: Of images: pixels that are black and white, and beyond it.
    tones: Tones | None
    #: What must be wrong, such as a unit, or volumes of which some are mirrored.
    warnings: tuple[Suspicion, ...]
    notes: tuple[str, ...]

    @property
    def numeric(self) -> tuple[NumericCounts, ...]:
        return tuple(one for one in self.columns if isinstance(one, NumericCounts))

    @property
    def categorical(self) -> tuple[CategoryCounts, ...]:
        return tuple(one for one in self.columns if isinstance(one, CategoryCounts))

    def rows(self) -> list[tuple[str, str]]:
        """What the card says of all records, as pairs of a name and a value for a person."""
        least, median, most = self.records_a_patient
        found = [
            ("patients", f"{self.patients} (the plan's nominal number: {self.nominal_patients})"),
            ("records", str(self.records)),
            ("records a patient", f"{least} at least, {median:g} median, {most} at most"),
            ("pixels of a class" if self.masked else "classes", _shares(self.classes, sum(self.classes.values()))),
        ]
        if self.columns:
            found.append(("missing values", _counted([(one.name, one.missing) for one in self.columns], self.records)))
            found.append(("cut at ten scales", _counted([(one.name, one.cut) for one in self.numeric], self.records)))
        if self.intensity is not None:
            low, high = self.intensity
            grey = [f"{value * SCALE + CENTER:.3g}" for value in self.intensity]
            found.append(("image shape", " x ".join(map(str, self.shape)) + " (channels, height, width)"))
            found.append(("intensities", f"{low:.3g} to {high:.3g}; {grey[0]} to {grey[1]} with black 0 and white 1"))
        if self.tones is not None:
            found.append(("black pixels", _tone(self.tones.black, self.tones.below, self.tones.pixels)))
            found.append(("white pixels", _tone(self.tones.white, self.tones.above, self.tones.pixels)))
        return found

    def lines(self) -> tuple[str, ...]:
        """The card as lines of text for a log."""
        return (
            f"data card. {STAYS}",
            *(f"  {name}: {value}" for name, value in self.rows()),
            *(f"  column {one.name}: {said(one)}" for one in self.columns),
            *(f"  warning: {told(one)}" for one in self.warnings),
            *(f"  note: {note}" for note in self.notes),
        )


def told(one: Suspicion) -> str:
    """A warning with the column that it is of."""
    return one.text if one.column is None else f"column {one.column}: {one.text}"


def said(one: ColumnCounts) -> str:
    """The figures of a column in words."""
    missing = f"{one.missing} missing"
    if isinstance(one, CategoryCounts):
        return f"{_categories(one)}; {missing}"
    if (ends := one.quantiles) is None:
        return missing
    middle = f"median {ends.median:.6g}, {one.middle:+.3g} scales from the plan's centre"
    quartiles = f"half from {ends.lower:.6g} to {ends.upper:.6g}, spread {one.spread:.3g} scales"
    return f"{middle}; {quartiles}; {missing}, {one.cut} cut"


def data_card(loaded: Loaded, plan: StudyPlan, hospital: str) -> DataCard:
    """The card of a hospital's records, whose labels are among the plan's classes (every loader has checked that)."""
    records, data = loaded.records, plan.data
    sizes = [len(group) for group in records.by_patient] or [0]
    counts = np.bincount(records.labels.ravel(), minlength=len(data.classes))
    columns, tones, warnings, extremes = tuple[ColumnCounts, ...](), None, tuple[Suspicion, ...](), None
    if data.kind == "table":
        columns = loaded.columns or count_columns(records.inputs, data.columns)
        warnings = suspicion.of_columns(columns, data, records.n_patients)
        if not loaded.columns:
            warnings = tuple(one for one in warnings if one.kind in _TOLD_BY_FEATURES)
    elif len(records):
        tones = loaded.tones or count_tones(records.inputs)
        warnings = suspicion.of_tones(tones, grey_ends(records.inputs), data)
        warnings = warnings or suspicion.of_images(loaded.odd, data)
        if loaded.turned:
            warnings += (Suspicion("orientation", None, loaded.turned),)
        extremes = float(records.inputs.min()), float(records.inputs.max())
    few = shortfall(records, plan, hospital)
    return DataCard(
        patients=records.n_patients,
        nominal_patients=plan.hospital(hospital).nominal_patients,
        records=len(records),
        records_a_patient=(min(sizes), float(np.median(sizes)), max(sizes)),
        classes={name: int(count) for name, count in zip(data.classes, counts, strict=False)},
        masked=records.masked,
        columns=columns,
        shape=records.inputs.shape[1:],
        intensity=extremes,
        tones=tones,
        warnings=warnings,
        notes=(*loaded.notes, *([few.removeprefix("note: ")] if few else [])),
    )


def _counted(counts: Iterable[tuple[str, int]], records: int) -> str:
    return ", ".join(f"{name} {count} ({count / records:.1%})" for name, count in counts if count) or "none"


def _categories(one: CategoryCounts) -> str:
    listed = _shares(one.categories, one.known)
    if one.other is None:
        return listed
    named = "".join(f", {value!r} {count}" for value, count in one.unlisted)
    return f"{listed}, and {one.other} not listed ({one.other / (one.known or 1):.1%}{named})"


def _shares(counts: Mapping[str, int], total: int) -> str:
    return ", ".join(f"{name} {count} ({count / (total or 1):.1%})" for name, count in counts.items())


def _tone(pixels: int, beyond: int, total: int) -> str:
    cut = f", {beyond / (total or 1):.1%} beyond" if beyond else ""
    return f"{pixels / (total or 1):.1%} of all{cut}"
