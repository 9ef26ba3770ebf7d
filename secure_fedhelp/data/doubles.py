"""Records of one patient that are the same to a model: most often a file was put together from two that overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from secure_fedhelp.data.records import Records


def doubles(records: Records) -> Iterable[tuple[int, int]]:
    """Each record that is the same as an earlier one of its patient, and that one: class and features, however spelled.

    Images of one value all over, as at the ends of a volume, are left out.
    """
    seen: dict[bytes, int] = {}
    for at, (patient, label, features) in enumerate(zip(records.patients, records.labels, records.inputs, strict=True)):
        if features.ndim > 1 and features.min() == features.max():
            continue
        same = hashlib.sha256((features + 0.0).tobytes())  # minus zero is zero
        same.update(label.tobytes() + patient.encode())
        if (first := seen.setdefault(same.digest(), at)) != at:
            yield at, first


def copies_told(records: Records, file: str) -> tuple[str, ...]:
    """A note on images that are there twice; no refusal, since two exposures may be alike where two rows are not."""
    found = list(doubles(records))
    if not found:
        return ()
    at, first = found[0]
    return (
        f"{file}: {len(found)} image(s) are the same as another of their patient, records {first} and {at} among them: "
        "was the set put together from two that overlap?",
    )
