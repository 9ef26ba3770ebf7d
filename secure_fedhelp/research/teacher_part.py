"""A weaker teacher than the usual one, none, or two, as a study file's ``[teacher]`` asks for it.

A teacher is what the reference patients make of it: fewer of them, or labels that are not theirs. Everything else of
the study stays as it is, so that teachers can be compared pair by pair under one seed; a smaller training is a part of
every larger one. A second teacher takes its patients from the other end of the same order: the two share none as long
as there are enough for both, and the first is the one that it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secure_fedhelp.data.partition import stratified_order
from secure_fedhelp.data.records import Indices, Records
from secure_fedhelp.errors import InvalidPartition
from secure_fedhelp.research.dealing import Dealt
from secure_fedhelp.research.study_file import SecondTeacher, TeacherPart


def lessons(dealt: Dealt, part: TeacherPart, rng: np.random.Generator) -> tuple[Records, ...]:
    """The records that each teacher is trained on, of none, one or two.

    Raises InvalidPartition if there are too few reference patients, if those asked for lack a class, or if the second
    teacher would be the first once more.
    """
    if part.kind == "none":
        return ()
    order = stratified_order(dealt.patients(dealt.reference), dealt.strata[dealt.reference], rng)
    first = _lesson(dealt, order, part, "[teacher]", rng)
    if part.second is None:
        return (first,)
    second = _lesson(dealt, order[::-1], part.second, "[teacher.second]", rng)
    if np.array_equal(first.inputs, second.inputs) and np.array_equal(first.labels, second.labels):
        hint = "Give one of them records or shuffled: from one that is the first once more nothing is learnt."
        raise InvalidPartition("[teacher.second] would be trained on the very same records as the first", hint)
    return first, second


def _lesson(
    dealt: Dealt, order: Sequence[Indices], part: SecondTeacher, place: str, rng: np.random.Generator
) -> Records:
    """Of the reference records, whose patients come in this ``order``."""
    reference, wanted = dealt.reference, part.records or len(order)
    if wanted > len(order):
        hint = f"Ask for fewer in {place}: records; absent, all of them."
        raise InvalidPartition(f"{place} asks for {wanted} patients, and {len(order)} are for reference", hint)
    _require_classes(dealt, [reference[at] for at in order], wanted, place)
    chosen = reference[np.sort(np.concatenate(order[:wanted]))]  # in the usual order
    return _shuffled(dealt.records.take(chosen), part.shuffled, rng)


def _require_classes(dealt: Dealt, order: Sequence[Indices], wanted: int, place: str) -> None:
    """A teacher that never saw a class cannot answer by it; where all together lack one, its training says so."""
    classes, seen = dealt.fields["classes"], set[int]()
    for enough, records in enumerate(order, 1):
        seen |= set(np.unique(dealt.records.labels[records]).tolist())
        if len(seen) == len(classes):
            if wanted < enough:
                reason = f"these reference patients lack a class of {', '.join(classes)}"
                hint = f"Under this seed {enough} patients have them all."
                raise InvalidPartition(f"{place} records = {wanted}: {reason}", hint)
            return


def _shuffled(records: Records, share: float, rng: np.random.Generator) -> Records:
    """The same with the labels of this share of them, drawn at random, dealt anew among them; whole masks likewise."""
    if not share:
        return records
    labels, chosen = records.labels.copy(), rng.permutation(len(records))[: round(share * len(records))]
    labels[chosen] = labels[rng.permutation(chosen)]
    return Records(records.inputs, labels, records.patients)
