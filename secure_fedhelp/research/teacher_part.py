"""A weaker teacher than the usual one, or none, as a study file's ``[teacher]`` asks for it.

A teacher is what the reference patients make of it: fewer of them, or labels that are not theirs. Everything else of
the study stays as it is, so that teachers can be compared pair by pair under one seed; a smaller training is a part of
every larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secure_fedhelp.data.partition import stratified_order
from secure_fedhelp.data.records import Indices, Records
from secure_fedhelp.errors import InvalidPartition
from secure_fedhelp.research.dealing import Dealt
from secure_fedhelp.research.study_file import TeacherPart


def lessons(dealt: Dealt, part: TeacherPart, rng: np.random.Generator) -> Records | None:
    """The records that the teacher is trained on; None if there is none.

    Raises InvalidPartition if there are too few reference patients, or if those asked for lack a class.
    """
    if part.kind == "none":
        return None
    reference = dealt.reference
    order = stratified_order(dealt.patients(reference), dealt.strata[reference], rng)
    wanted = part.records or len(order)
    if wanted > len(order):
        hint = "Ask for fewer in [teacher]: records; absent, all of them."
        raise InvalidPartition(f"[teacher] asks for {wanted} patients, and {len(order)} are for reference", hint)
    _require_classes(dealt, [reference[at] for at in order], wanted)
    chosen = reference[np.sort(np.concatenate(order[:wanted]))]  # in the usual order
    return _shuffled(dealt.records.take(chosen), part.shuffled, rng)


def _require_classes(dealt: Dealt, order: Sequence[Indices], wanted: int) -> None:
    """A teacher that never saw a class cannot answer by it; where all together lack one, its training says so."""
    classes, seen = dealt.fields["classes"], set[int]()
    for enough, records in enumerate(order, 1):
        seen |= set(np.unique(dealt.records.labels[records]).tolist())
        if len(seen) == len(classes):
            if wanted < enough:
                reason = f"these reference patients lack a class of {', '.join(classes)}"
                hint = f"Under this seed {enough} patients have them all."
                raise InvalidPartition(f"[teacher] records = {wanted}: {reason}", hint)
            return


def _shuffled(records: Records, share: float, rng: np.random.Generator) -> Records:
    """The same with the labels of this share of them, drawn at random, dealt anew among them; whole masks likewise."""
    if not share:
        return records
    labels, chosen = records.labels.copy(), rng.permutation(len(records))[: round(share * len(records))]
    labels[chosen] = labels[rng.permutation(chosen)]
    return Records(records.inputs, labels, records.patients)
