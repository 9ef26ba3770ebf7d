"""The data card: what a hospital should know of its own records before it trains on them.

Its figures are exact and come from private records, so they are no release and never leave: the card is a text for the
hospital's terminal and log, and nothing in this project reads it back or sends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secure_fedhelp.data.checks import shortfall
from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.study.plan import StudyPlan

STAYS = "This data card stays at the hospital."


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
    #: Missing values by column of a table, those without one left out; None for images.
    missing: Mapping[str, int] | None
    shape: tuple[int, ...]
    #: Smallest and largest value as the model sees it, and as a grey value between 0 (black) and 1 (white).
    intensity: tuple[float, float] | None
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """What the card says, as pairs of a name and a value for a person."""
        least, median, most = self.records_a_patient
        total = sum(self.classes.values()) or 1
        shares = ", ".join(f"{name} {count} ({count / total:.1%})" for name, count in self.classes.items())
        found = [
            ("patients", f"{self.patients} (the plan's nominal number: {self.nominal_patients})"),
            ("records", str(self.records)),
            ("records a patient", f"{least} at least, {median:g} median, {most} at most"),
            ("pixels of a class" if self.masked else "classes", shares),
        ]
        if self.missing is not None:
            holes = [f"{name} {count} ({count / self.records:.1%})" for name, count in self.missing.items()]
            found.append(("missing values", ", ".join(holes) or "none"))
        if self.intensity is not None:
            low, high = self.intensity
            grey = [f"{value * SCALE + CENTER:.3g}" for value in self.intensity]
            found.append(("image shape", " x ".join(map(str, self.shape)) + " (channels, height, width)"))
            found.append(("intensities", f"{low:.3g} to {high:.3g}; {grey[0]} to {grey[1]} with black 0 and white 1"))
        return found

    def lines(self) -> tuple[str, ...]:
        """The card as lines of text for a log."""
        return (
            f"data card. {STAYS}",
            *(f"  {name}: {value}" for name, value in self.rows()),
            *(f"  note: {note}" for note in self.notes),
        )


def data_card(loaded: Loaded, plan: StudyPlan, hospital: str) -> DataCard:
    """The card of a hospital's records, whose labels are among the plan's classes (every loader has checked that)."""
    records, image = loaded.records, plan.data.kind == "image"
    sizes = [len(group) for group in records.by_patient] or [0]
    names, counts = plan.data.classes, np.bincount(records.labels.ravel(), minlength=len(plan.data.classes))
    classes = {name: int(count) for name, count in zip(names, counts, strict=False)}
    few = shortfall(records, plan, hospital)
    return DataCard(
        patients=records.n_patients,
        nominal_patients=plan.hospital(hospital).nominal_patients,
        records=len(records),
        records_a_patient=(min(sizes), float(np.median(sizes)), max(sizes)),
        classes=classes,
        masked=records.masked,
        missing=None if image else {name: count for name, count in loaded.missing.items() if count},
        shape=records.inputs.shape[1:],
        intensity=(float(records.inputs.min()), float(records.inputs.max())) if image and len(records) else None,
        notes=(*loaded.notes, *([few.removeprefix("note: ")] if few else [])),
    )
