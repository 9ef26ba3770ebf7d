"""What is asked of a hospital's records before anything is trained or spent.

The answer is for the hospital alone. It is *not* part of what leaves: a hospital whose records do not fit does not
join, and whether it joins is decided before the study by people who know roughly how many patients it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidData, OneClassOnly, TooFewPatients
from secure_fedhelp.study.plan import StudyPlan

#: The true number of patients must be at least this share of the plan's nominal number: noise and learning rate are
#: set for the nominal batch, and with half of it the signal is halved while the noise stays.
SMALLEST_SHARE = 0.5
#: Fewest patients a step may be expected to draw; below one, most steps would send noise only.
SMALLEST_EXPECTED_BATCH = 1.0


def shortfall(records: Records, plan: StudyPlan, hospital: str) -> str | None:
    """What to tell a hospital with fewer patients than the plan declares, and enough to take part; or None."""
    nominal = plan.hospital(hospital).nominal_patients
    if records.n_patients >= nominal:
        return None
    return (
        f"note: {records.n_patients} patients here, the plan declares {nominal}. The privacy guarantee is the same; "
        f"batches are smaller beside the same noise, so less is learnt. Nothing of this leaves."
    )


def check_records(records: Records, plan: StudyPlan, hospital: str) -> None:
    """Raise InvalidData (shape, unknown class), OneClassOnly or TooFewPatients, or return."""
    if records.inputs.shape[1:] != plan.data.input_shape:
        raise InvalidData(f"inputs of shape {records.inputs.shape[1:]}, the plan says {plan.data.input_shape}")
    if records.masked != plan.data.masked:
        found = "masks" if records.masked else "one label a record"
        raise InvalidData(f"{hospital}: the records have {found}, and the plan's task is {plan.data.task}")
    classes = len(plan.data.classes)
    if len(records) and not (records.labels.min() >= 0 and records.labels.max() < classes):
        raise InvalidData(f"a label is not one of the plan's {classes} classes")
    require_two_classes(records, plan.data.classes, hospital)
    entry, privacy = plan.hospital(hospital), plan.privacy_of(hospital)
    require_drawn(entry.nominal_patients, privacy.sampling_rate, hospital)
    needed = max(2, round(SMALLEST_SHARE * entry.nominal_patients))
    if records.n_patients < needed:
        raise TooFewPatients(
            f"{hospital}: {records.n_patients} patients; the plan's nominal {entry.nominal_patients} needs {needed}",
            "Ask for a plan with a smaller nominal number of patients for this hospital. Nothing was spent.",
        )


def require_two_classes(records: Records, classes: Sequence[str], hospital: str) -> None:
    """OneClassOnly unless there are records of two classes, or pixels of two."""
    if len(np.unique(records.labels)) < 2:
        found = ", ".join(classes[label] for label in np.unique(records.labels)) or "no record"
        raise OneClassOnly(f"{hospital}: all records are of one class ({found})")


def require_drawn(nominal: int, sampling_rate: float, hospital: str) -> None:
    """TooFewPatients if a step is expected to draw less than one of ``nominal`` patients."""
    expected = sampling_rate * nominal
    if expected < SMALLEST_EXPECTED_BATCH:
        raise TooFewPatients(
            f"{hospital}: the plan's rate draws {expected:.2f} of its {nominal} nominal patients a step, and one is "
            "needed",
            f"A larger sampling rate is needed ({1 / nominal:.2g} at least), or more patients. Nothing was spent.",
        )
