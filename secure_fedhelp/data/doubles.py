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


def of_several(records: Records) -> Iterable[tuple[int, int]]:
    """Each record with the image of an earlier one of another patient, and that one; none of one value all over."""
    first_of: dict[bytes, int] = {}
    for at, image in enumerate(records.inputs):
        if image.min() == image.max():
            continue
        first = first_of.setdefault(hashlib.sha256((image + 0.0).tobytes()).digest(), at)
        if records.patients[first] != records.patients[at]:
            yield at, first


def copies_told(records: Records, file: str) -> tuple[str, ...]:
    """Notes on images that are there twice; no refusal, since two exposures may be alike where two rows are not."""
    notes = []
    if found := list(doubles(records)):
        at, first = found[0]
        notes.append(
            f"{file}: {len(found)} image(s) are the same as another of their patient, records {first} and {at} among "
            "them: was the set put together from two that overlap?"
        )
    if found := list(of_several(records)):
        at, first = found[0]
        notes.append(
            f"{file}: {len(found)} image(s) are of more than one patient, records {first} and {at} among them. "
            "Who counts as two is protected half as well, and copies may be trained and tested on."
        )
    return tuple(notes)
