"""The patients of a study's private pool to its hospitals, as the study file's ``[partition]`` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secure_fedhelp.data.partition import by_dirichlet, by_site, by_sizes
from secure_fedhelp.data.records import Indices, Labels, Records
from secure_fedhelp.errors import InvalidPartition
from secure_fedhelp.research.study_file import DirichletPartition, Partition, SitePartition
from secure_fedhelp.study.sections import Tier

Hospitals = dict[str, tuple[Tier, Indices]]
#: Fewer hospitals never make a cohort of the studies' plans.
FEWEST_HOSPITALS = 3


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
) -> Hospitals:
    """Tier and record indices of each hospital. ``patients``, ``classes`` and ``sites`` are of all records, and
    ``pool`` are the indices of those to be dealt. Raises InvalidPartition.
    """
    names, labels = [patients[index] for index in pool], classes[pool]
    if isinstance(partition, SitePartition):
        if sites is None:
            raise InvalidPartition("kind = 'site', and these records name no site", "Choose 'sizes' or 'dirichlet'.")
        pool = np.sort(pool)
        at = [site_name(sites[index]) for index in pool]
        if len(set(at)) < len(found := sorted({sites[index].strip() for index in pool})):
            raise InvalidPartition(f"two of the sites would have one name: {', '.join(found)}", "Rename one of them.")
        parts = by_site([patients[index] for index in pool], at, partition.minimum_patients)
        if strangers := sorted(set(partition.large) - set(parts)):
            raise InvalidPartition(f"large names no site of the data: {strangers[0]!r} is none of {', '.join(parts)}")
    elif isinstance(partition, DirichletPartition):
        shares, least = partition.shares, partition.minimum_patients
        parts = by_dirichlet(names, labels, shares, partition.alpha, rng, least)
    else:
        parts = by_sizes(names, labels, partition.shares, rng, partition.minimum_patients)
    if len(parts) < FEWEST_HOSPITALS:
        raise InvalidPartition(f"{len(parts)} hospitals, and a study needs {FEWEST_HOSPITALS}")
    return {name: ("large" if name in partition.large else "small", pool[part]) for name, part in parts.items()}


def site_name(text: str) -> str:
    """A site's name as a hospital's: ``Long Beach (VA)`` becomes ``long-beach-va``, ``3`` becomes ``site-3``."""
    name = re.sub(r"[^a-z0-9]+", "-", text.strip().lower()).strip("-")
    if not name:
        raise InvalidPartition(f"{text.strip()[:40]!r} is no site's name", "Fill in the column, or drop the record.")
    return (name if name[0].isalpha() else f"site-{name}")[:63]
