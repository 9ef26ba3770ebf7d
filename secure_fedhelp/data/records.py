"""A hospital's records and the study's public set, as checked arrays.

A record belongs to a patient, and the patient is the unit of privacy: training draws patients and takes one record of
each, and every split in this project is a split of patients. Identifiers are made canonical here (study/patients.py):
all who compare two of them have one notion of a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidData, PublicSetMismatch
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.patients import canonical_patient

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Records:
    """``inputs`` float32 [n, ...] as the model sees them, ``labels`` int64 [n], ``patients`` n identifiers in
    their canonical spelling, whatever spelling is given.

    Where every pixel has a class, labels are masks: int64 [n, H, W] for inputs [n, C, H, W].
    """

    inputs: Inputs
    labels: Labels
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_arrays(self.inputs, self.labels)
        if len(self.patients) != len(self.inputs):
            raise InvalidData(f"{len(self.inputs)} inputs but {len(self.patients)} patient identifiers")
        object.__setattr__(self, "patients", tuple(map(canonical_patient, self.patients)))

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def masked(self) -> bool:
        """Whether the labels are masks, a class for each pixel."""
        return self.labels.ndim == 3

    @cached_property
    def by_patient(self) -> tuple[Indices, ...]:
        """Record indices of each patient, in the order in which the patients first appear."""
        groups: dict[str, list[int]] = {}
        for index, patient in enumerate(self.patients):
            groups.setdefault(patient, []).append(index)
        return tuple(np.asarray(group, dtype=np.int64) for group in groups.values())

    @property
    def n_patients(self) -> int:
        return len(self.by_patient)

    def take(self, indices: Sequence[int] | Indices) -> Records:
        """The records at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Records(self.inputs[chosen], self.labels[chosen], tuple(self.patients[i] for i in chosen))

    def take_patients(self, numbers: Sequence[int] | Indices) -> Records:
        """All records of the patients with these positions in :attr:`by_patient`: how a split keeps a patient whole."""
        groups = [self.by_patient[int(number)] for number in numbers]
        return self.take(np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class PublicSet:
    """Inputs everybody may see, with labels or without, and the hash by which the plan fixes them."""

    inputs: Inputs
    labels: Labels | None
    sha256: str

    def __post_init__(self) -> None:
        if self.labels is not None:
            _check_arrays(self.inputs, self.labels)
        if public_hash(self.inputs, self.labels) != self.sha256:
            raise PublicSetMismatch(f"the public set does not have the hash {self.sha256[:16]}…")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def masked(self) -> bool:
        """Whether there are labels, and they are masks."""
        return self.labels is not None and self.labels.ndim > 1

    @classmethod
    def of(cls, inputs: Inputs, labels: Labels | None) -> PublicSet:
        """A public set under its own hash (for whoever makes one; a hospital compares with the plan's instead)."""
        return cls(inputs, labels, public_hash(inputs, labels))


def public_hash(inputs: Inputs, labels: Labels | None) -> str:
    """SHA-256 of a canonical JSON line with the shape, then inputs as little-endian float32, then labels as int64."""
    head = canonical_bytes({"format": 1, "shape": list(inputs.shape), "labelled": labels is not None})
    tail = b"" if labels is None else np.ascontiguousarray(labels, dtype="<i8").tobytes()
    return sha256_hex(head + b"\n" + np.ascontiguousarray(inputs, dtype="<f4").tobytes() + tail)


def _check_arrays(inputs: Inputs, labels: Labels) -> None:
    if inputs.dtype != np.float32 or labels.dtype != np.int64:
        raise InvalidData(f"inputs must be float32 and labels int64, not {inputs.dtype} and {labels.dtype}")
    if labels.shape not in ((len(inputs),), (len(inputs), *inputs.shape[2:])):  # a class a record, or a mask
        raise InvalidData(f"{len(inputs)} inputs but labels of shape {labels.shape}")
    if not np.isfinite(inputs).all():
        raise InvalidData("an input holds NaN or infinity")
