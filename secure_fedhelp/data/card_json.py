"""The data card as JSON, for a hospital's own programs: its keys are fixed, and ``format`` numbers them.

Figures are exact figures of private records, so the file is for the hospital alone, like the card.
"""

from __future__ import annotations

import json
import math
from typing import Any

from secure_fedhelp.data.card import DataCard
from secure_fedhelp.data.columns import CategoryCounts, ColumnCounts, NumericCounts
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import Column

#: Raised when a key changes its meaning or goes; a new key does not raise it.
FORMAT = 1


def card_json(card: DataCard, plan: StudyPlan, hospital: str, misfit: FedHelpError | None) -> bytes:
    """The card, and whether the records fit the plan or the error that says why not; ends with a line feed.

    A figure that is no finite number is null.
    """
    least, median, most = card.records_a_patient
    values = {
        "format": FORMAT,
        "hospital": hospital,
        "study": {"name": plan.study.name, "hash": plan.hash},
        "fits": misfit is None,
        "misfit": None if misfit is None else {"error": type(misfit).__name__, "text": misfit.message},
        "warnings": [{"kind": one.kind, "column": one.column, "text": one.text} for one in card.warnings],
        "notes": list(card.notes),
        "patients": card.patients,
        "nominal_patients": card.nominal_patients,
        "records": card.records,
        "records_a_patient": {"fewest": least, "median": median, "most": most},
        "classes": {"counted": "pixels" if card.masked else "records", "counts": dict(card.classes)},
        "columns": [_column(*both) for both in zip(card.columns, plan.data.columns, strict=False)],
        "images": _images(card),
    }
    return json.dumps(_finite(values), indent=1, allow_nan=False).encode() + b"\n"


def _column(one: ColumnCounts, column: Column) -> dict[str, Any]:
    common: dict[str, Any] = {"name": one.name, "missing": one.missing}
    if isinstance(one, CategoryCounts):
        unlisted = [{"value": value, "records": count} for value, count in one.unlisted]
        return {"kind": "categorical", **common, "categories": one.categories, "other": one.other, "unlisted": unlisted}
    return {"kind": "numeric", **common, "cut": one.cut, **_figures(one, column)}


def _figures(one: NumericCounts, column: Column) -> dict[str, Any]:
    ends = one.quantiles
    return {
        "center": column.center,
        "scale": column.scale,
        "smallest": ends and ends.smallest,
        "lower_quartile": ends and ends.lower,
        "median": ends and ends.median,
        "upper_quartile": ends and ends.upper,
        "largest": ends and ends.largest,
        "middle_in_scales": ends and one.middle,
        "spread_in_scales": ends and one.spread,
        "quartile_spread_in_scales": ends and one.quartile_spread,
        "codes": [{"value": value, "records": count} for value, count in one.codes],
    }


def _images(card: DataCard) -> dict[str, Any] | None:
    if card.tones is None or card.intensity is None:
        return None
    tones = card.tones
    return {
        "shape": list(card.shape),
        "smallest": card.intensity[0],
        "largest": card.intensity[1],
        "pixels": tones.pixels,
        "below_black": tones.below,
        "above_white": tones.above,
        "black": tones.black,
        "white": tones.white,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
