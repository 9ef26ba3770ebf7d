"""Parts of a data set: drawn at random by patient, or as a column (an array) of the data says: ``split`` of ``[data]``.

The words of such a column, in any case: ``train``, ``training``, ``val``, ``valid``, ``validation``, ``dev`` and
``development`` are dealt to the hospitals, as MedMNIST's training and validation parts are; ``test`` and ``testing``,
``public``, ``reference`` name a part. A part that it does not name is drawn from the records that are dealt, by the
numbers of ``[parts]``. Any other word, and none at all, is refused: nobody knows which part was meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from secure_fedhelp.data.partition import split
from secure_fedhelp.data.records import Indices, Labels
from secure_fedhelp.errors import InvalidConfiguration, InvalidPartition, InvalidValue
from secure_fedhelp.research.study_file import Parts
from secure_fedhelp.study.patients import canonical_patient

Part = Literal["hospitals", "test", "public", "reference"]
_SET_ASIDE: Final[tuple[Part, ...]] = ("test", "public", "reference")
_PARTS: Final[tuple[Part, ...]] = ("hospitals", *_SET_ASIDE)
WORDS: Final[dict[str, Part]] = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation", "dev", "development"), "hospitals"),
    **dict.fromkeys(("test", "testing"), "test"),
    "public": "public",
    "reference": "reference",
}


@dataclass(frozen=True)
class Split:
    """What the data say of their own parts: the column, and the part of each record."""

    column: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Cut:
    """Record indices of each part; no patient is in two. ``pool`` is dealt to the hospitals."""

    test: Indices
    public: Indices
    reference: Indices
    pool: Indices


def read_split(texts: Sequence[str], patients: Sequence[str], column: str, places: Sequence[str]) -> Split:
    """The part of each record by its text. ``places`` say where each record stands, for a person.

    Raises InvalidValue for words that name no part, and InvalidPartition for a patient in two parts: by the rule that
    knows two spellings for one person, since a model that was trained on one record knows the other.
    """
    words = [text.strip().lower() for text in texts]
    if unknown := Counter(word for word in words if word not in WORDS):
        first = next(number for number, word in enumerate(words) if word in unknown)
        listed = ", ".join(f"{word[:40]!r} ({count})" for word, count in unknown.most_common(5))
        reason = f"{places[first]}: {texts[first].strip()[:40]!r} of {column!r} is no part; in all {listed}"
        raise InvalidValue(reason, f"split understands {', '.join(WORDS)}. Fill it in, or leave these records out.")
    parts, seen = tuple(WORDS[word] for word in words), dict[str, int]()
    for number, (patient, part) in enumerate(zip(patients, parts, strict=True)):
        first = seen.setdefault(canonical_patient(patient), number)
        if parts[first] != part:
            who = repr(patient) if patient == patients[first] else f"{patients[first]!r} (here {patient!r})"
            raise InvalidPartition(
                f"{places[number]}: patient {who} is in two parts of {column!r}, {texts[first].strip()!r} and "
                f"{texts[number].strip()!r} ({places[first]})",
                "Keep all records of a patient in one part: a model that learnt from one of them knows the others.",
            )
    return Split(column, parts)


def cut_parts(
    patients: Sequence[str],
    strata: Labels,
    counts: Parts | None,
    named: Split | None,
    file: str,
    rng: np.random.Generator,
) -> Cut:
    """The parts that ``named`` says, and the others drawn by patient, ``strata`` in proportion, as ``counts`` says.

    Raises InvalidConfiguration if a part is said twice or not at all, InvalidPartition if there are too few patients.
    """
    wanted = counts or Parts()
    parts = list(named.parts) if named else [_PARTS[0]] * len(patients)
    said = {part: np.flatnonzero([found == part for found in parts]) for part in _PARTS}
    drawn = list[tuple[Part, int]]()
    for part in _SET_ASIDE:
        count = getattr(wanted, part)
        if named and len(said[part]) and count:
            reason = f"{named.column!r} of {file} names the {part} part, and [parts] asks for {count} patients"
            raise InvalidConfiguration(reason, f"Leave {part} out of [parts].")
        if not len(said[part]):
            if not count:
                own = f" in {named.column!r}" if named else ""
                reason = f"{file} has no {part} part of its own{own}"
                raise InvalidConfiguration(reason, f"Say in [parts] how many patients: {part} = ...")
            drawn.append((part, count))
    pool = said["hospitals"]
    if not len(pool):
        raise InvalidPartition(f"{file}: no record is left for the hospitals", "Name some of them train.")
    *found, rest = split([patients[int(i)] for i in pool], strata[pool], [count for _, count in drawn], rng)
    said |= {part: pool[at] for (part, _), at in zip(drawn, found, strict=True)}
    return Cut(said["test"], said["public"], said["reference"], pool[rest])
