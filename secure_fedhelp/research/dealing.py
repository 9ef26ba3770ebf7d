"""The patients of a study's private pool to its hospitals, as the study file's ``[partition]`` says."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secure_fedhelp.data.numbers import one_spelling, says_nothing
from secure_fedhelp.data.partition import by_dirichlet, by_site, by_sizes
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Indices, Labels, Records
from secure_fedhelp.errors import InvalidPartition
from secure_fedhelp.research.study_file import DirichletPartition, Partition, SitePartition
from secure_fedhelp.study.patients import canonical_patient
from secure_fedhelp.study.sections import Tier

Hospitals = dict[str, tuple[Tier, Indices]]
#: Fewer hospitals never make a cohort of the studies' plans.
FEWEST_HOSPITALS = 3


@dataclass(frozen=True)
class About:
    """What somebody who reads the results must know of how the data were taken."""

    #: Whether columns were inferred from the public part, but for those that the study file says itself.
    inferred: bool = False
    said: frozenset[str] = frozenset()
    #: Columns of the file that are not taken.
    excluded: tuple[str, ...] = ()
    #: Each site that is left out: its name, how many patients it has, and why.
    left_out: tuple[str, ...] = ()
    #: The column or array that says of each record which part it is of, if one does.
    split: str | None = None
    #: How numbers and identifiers are written in the rows.
    reading: Reading = STANDARD


@dataclass(frozen=True, eq=False)
class Dealt:
    """All records of a data set, and which of them are whose; no patient is in two parts. Some may be nobody's."""

    records: Records
    #: What parts have in the same proportion, one value a record: the class, or class and site, or the site.
    strata: Labels
    partition: Partition
    hospitals: Hospitals
    public: Indices
    reference: Indices
    test: Indices
    #: Keyword arguments of :class:`secure_fedhelp.study.plan.DataSection`, but for the public set's.
    fields: dict[str, Any]
    #: The hospital that each record is of, where hospitals are as they are and not dealt; one a record.
    sites: Sequence[str] | None = None
    #: What the loader has to say of the records, such as that the file names no patients.
    notes: tuple[str, ...] = ()
    #: Of a table: the text of each record as its source has it, by the names of the columns.
    rows: Sequence[Mapping[str, str]] = ()
    about: About = field(default_factory=About)

    @property
    def pool(self) -> Indices:
        """All hospitals' records, sorted: the same however they were dealt."""
        return np.sort(np.concatenate([indices for _, indices in self.hospitals.values()]))

    def patients(self, indices: Indices) -> list[str]:
        """The patient of each of these records."""
        return [self.records.patients[index] for index in indices]


def deal(
    partition: Partition,
    patients: Sequence[str],
    classes: Labels,
    sites: Sequence[str] | None,
    pool: Indices,
    rng: np.random.Generator,
    taking_part: Collection[str] = (),
    left_out: Collection[str] = (),
) -> Hospitals:
    """Tier and record indices of each hospital. ``patients``, ``classes`` and ``sites`` are of all records, and
    ``pool`` are the indices of those to be dealt. Only hospitals ``taking_part`` (all, if none is named) must have
    enough patients; sites that were ``left_out`` may still be called large. Raises InvalidPartition.
    """
    names, labels = [patients[index] for index in pool], classes[pool]
    if isinstance(partition, SitePartition):
        if sites is None:
            raise InvalidPartition("kind = 'site', and these records name no site", "Choose 'sizes' or 'dirichlet'.")
        pool = np.sort(pool)
        parts = by_site([patients[index] for index in pool], hospital_names([sites[index] for index in pool]))
        if strangers := sorted(set(partition.large) - set(parts) - set(left_out)):
            raise InvalidPartition(f"large names no site of the data: {strangers[0]!r} is none of {', '.join(parts)}")
    elif isinstance(partition, DirichletPartition):
        parts = by_dirichlet(names, labels, partition.shares, partition.alpha, rng, minimum=0)
    else:
        parts = by_sizes(names, labels, partition.shares, rng, minimum=0)
    _require_enough(partition, patients, {n: pool[at] for n, at in parts.items() if n in (taking_part or parts)})
    return {name: ("large" if name in partition.large else "small", pool[part]) for name, part in parts.items()}


def _require_enough(partition: Partition, patients: Sequence[str], parts: Mapping[str, Indices]) -> None:
    """InvalidPartition if hospitals that take part are too few, or have too few patients: all of them by name."""
    least, hint = partition.minimum_patients, None
    if isinstance(partition, SitePartition):
        hint = "Leave it out (smallest_site, or hospitals = [...] without it), or set fewer patients aside: [parts]."
    counts = {name: len({canonical_patient(patients[index]) for index in indices}) for name, indices in parts.items()}
    if short := {name: count for name, count in counts.items() if count < least}:
        said = ", ".join(f"{name} would have {count} patients" for name, count in short.items())
        error = InvalidPartition(f"{said}, and {least} are needed", hint)
        error.hospitals = tuple(short)
        raise error
    if len(parts) < FEWEST_HOSPITALS:
        raise InvalidPartition(f"{len(parts)} hospitals, and a study needs {FEWEST_HOSPITALS}")


def hospital_names(sites: Sequence[str]) -> list[str]:
    """The hospital of each record's site; a number in two spellings is one site (``3`` and ``3.0``). Raises
    InvalidPartition if two sites would have one name."""
    texts = [text.strip() for text in sites]
    spelled = dict(zip(texts, one_spelling(texts, "the sites"), strict=True))
    known = {text: site_name(text) for text in dict.fromkeys(spelled.values())}
    if len(set(known.values())) < len(known):
        raise InvalidPartition(
            f"two of the sites would have one name: {', '.join(sorted(known))}", "Rename one of them."
        )
    return [known[spelled[text]] for text in texts]


def site_name(text: str) -> str:
    """A site's name as a hospital's: ``Long Beach (VA)`` becomes ``long-beach-va``, ``3`` becomes ``site-3``."""
    name = re.sub(r"[^a-z0-9]+", "-", text.strip().lower()).strip("-")
    if not name and any(c.isalnum() for c in text):
        reason = f"{text.strip()[:40]!r} makes no hospital's name, which has letters from a to z and digits"
        raise InvalidPartition(reason, "Give the sites such names, or numbers.")
    if not name or says_nothing(text):
        raise InvalidPartition(f"{text.strip()[:40]!r} is no site's name", "Fill in the column, or drop the record.")
    return (name if name[0].isalpha() else f"site-{name}")[:63]
