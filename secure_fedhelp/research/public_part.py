"""Another public set than the usual one, as a study file's ``[public]`` asks for it.

The study is dealt as ever first, and what changes is drawn after that with random numbers of its own. So under one seed
studies that differ in ``[public]`` alone can be compared pair by pair: test and reference parts stay as they are, and

    [public]          the public set is                        who loses patients to it
    fewer records     some patients of the usual one           nobody
    more records      the usual one and patients of the pool   hospitals, about in proportion to their sizes
    hospital          patients of that hospital                that hospital
    dataset           images of another data set               nobody

Patients of the usual public set who are not in the new one are nobody's. A smaller set is a part of every larger one,
and which patients join it does not depend on how the others are dealt to hospitals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from secure_fedhelp.data.partition import FEWEST_CLASSES, stratified_order
from secure_fedhelp.data.records import Indices, Inputs, Records
from secure_fedhelp.errors import InvalidConfiguration, InvalidPartition
from secure_fedhelp.research.dealing import Dealt
from secure_fedhelp.research.study_file import PublicPart

_FEWER = "Ask for fewer in [public]: records or share."


def with_public(dealt: Dealt, part: PublicPart, taking_part: Collection[str], rng: np.random.Generator) -> Dealt:
    """``dealt`` with the public set of ``part``, of which a ``dataset`` is left to :func:`strangers`.

    Raises InvalidConfiguration for an unknown hospital, and InvalidPartition if there are too few patients, or if one
    of the hospitals ``taking_part`` would be left with too few, or with one class.
    """
    if part.dataset is not None:
        return dealt
    wanted, source = wanted_patients(dealt, part), _source(dealt, part, rng)
    if wanted > len(source):
        place = f"at {part.hospital}" if part.hospital else "beside test and reference"
        raise InvalidPartition(f"[public] asks for {wanted} patients, and there are {len(source)} {place}", _FEWER)
    chosen = np.concatenate(source[:wanted])
    kept = dealt.public[np.isin(dealt.public, chosen)]  # in their usual order, as the same set has it unlabelled
    changed = replace(
        dealt,
        public=np.concatenate([kept, chosen[~np.isin(chosen, dealt.public)]]),
        hospitals={n: (tier, at[~np.isin(at, chosen)]) for n, (tier, at) in dealt.hospitals.items()},
    )
    for name in taking_part:
        _require_enough(name, dealt, changed)
    return changed


def wanted_patients(dealt: Dealt, part: PublicPart) -> int:
    """How many patients the public set is to have; at least one."""
    usual = len(set(dealt.patients(dealt.public)))
    if part.share is not None:
        return max(1, round(part.share * (usual + len(set(dealt.patients(dealt.pool))))))
    return part.records or usual


def strangers(dealt: Dealt, part: PublicPart, others: Records, rng: np.random.Generator) -> Inputs:
    """Images of ``others``, the records of another data set, as a public set; float32 [n, channels, height, width].

    Patients are drawn without a look at their labels: nobody has them. Raises InvalidConfiguration for another shape.
    """
    shape, found = dealt.records.inputs.shape[1:], others.inputs.shape[1:]
    if found != shape:
        raise InvalidConfiguration(
            f"[public] dataset = {part.dataset!r}: images of shape {list(found)}, and the study's are {list(shape)}",
            "A model takes inputs of one shape: choose a data set of the same, or leave dataset out.",
        )
    # Where the study is of this very data set under another name, its own images are no strangers.
    own = {image.tobytes() for image in dealt.records.inputs}
    others = others.take([number for number, image in enumerate(others.inputs) if image.tobytes() not in own])
    if (wanted := wanted_patients(dealt, part)) > others.n_patients:
        raise InvalidPartition(
            f"[public] asks for {wanted} patients, and {part.dataset} has {others.n_patients}", _FEWER
        )
    return others.take_patients(rng.permutation(others.n_patients)[:wanted]).inputs


def _source(dealt: Dealt, part: PublicPart, rng: np.random.Generator) -> Sequence[Indices]:
    """The records of each patient who may become public, in the order in which they do."""
    if part.hospital is None:
        return [*_ordered(dealt, dealt.public, rng), *_ordered(dealt, dealt.pool, rng)]
    if part.hospital not in dealt.hospitals:
        known = ", ".join(dealt.hospitals)
        raise InvalidConfiguration(f"[public] hospital = {part.hospital!r} is none of this study", f"It has {known}.")
    return _ordered(dealt, np.sort(dealt.hospitals[part.hospital][1]), rng)


def _ordered(dealt: Dealt, indices: Indices, rng: np.random.Generator) -> list[Indices]:
    return [indices[at] for at in stratified_order(dealt.patients(indices), dealt.strata[indices], rng)]


def _require_enough(name: str, before: Dealt, after: Dealt) -> None:
    """A hospital that has lost patients must still be one: with enough patients, and two classes if it had two."""
    had, left = before.hospitals[name][1], after.hospitals[name][1]
    if len(left) == len(had):
        return
    patients, needed = len(set(after.patients(left))), before.partition.minimum_patients
    if patients < needed:
        raise InvalidPartition(f"[public] leaves {name} with {patients} patients, and {needed} are needed", _FEWER)
    labels = before.records.labels
    if len(np.unique(labels[left])) < FEWEST_CLASSES <= len(np.unique(labels[had])):
        raise InvalidPartition(f"[public] leaves {name} with records of one class only", _FEWER)
