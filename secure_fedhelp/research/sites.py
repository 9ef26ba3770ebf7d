"""Hospitals as the records came: which of them take part, before anything of the records is checked.

A site that ``hospitals`` does not name, or that has fewer patients in the file than ``smallest_site``, is left out of
everything: of the hospitals, and of public, reference and test part too. Of a data set of the catalog ``hospitals`` is
another thing: its parts stay those of published figures, and only who takes part is chosen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from secure_fedhelp.data.numbers import one_spelling
from secure_fedhelp.data.records import Indices
from secure_fedhelp.errors import InvalidConfiguration, InvalidPartition
from secure_fedhelp.research.dealing import hospital_names, site_name
from secure_fedhelp.research.study_file import SitePartition, StudyFile
from secure_fedhelp.study.patients import canonical_patient

#: The site of a record that names none.
_NONE = ""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The records of the sites that take part, and what is said of the others."""

    kept: Indices
    #: Each site that is left out, by its name: how many patients it has, and why.
    left_out: Mapping[str, str] = field(default_factory=dict)


def choose_sites(study: StudyFile, patients: Sequence[str], sites: Sequence[str] | None) -> Chosen:
    """Which records are of sites that take part; ``sites`` None where hospitals are not as they came. ``patients`` as
    they are spelled: of a site that is left out nothing is checked.

    Raises InvalidConfiguration for a hospital that is no site, and InvalidPartition for two sites of one name or one
    without a name, unless ``hospitals`` leaves them out.
    """
    everybody = Chosen(np.arange(len(patients)))
    if sites is None or not isinstance(study.partition, SitePartition):
        return everybody
    names = _names_of_some(sites, study.hospitals) if study.hospitals else hospital_names(sites)
    count = dict.fromkeys(sorted(set(names)), 0)
    for name, _ in {(name, canonical_patient(who)) for name, who in zip(names, patients, strict=True)}:
        count[name] += 1
    _require_known(study, count)
    named, least = set(study.hospitals or count), study.smallest_site or 0
    if study.public is not None and study.public.hospital is not None:
        named.add(study.public.hospital)  # it gives the public set, and need not take part
    left_out = dict[str, str]()
    for name, many in count.items():
        if name == _NONE:
            left_out[name] = f"records without a site, of {many} patients"
        elif name not in named:
            left_out[name] = f"{name}, with {many} patients: hospitals does not name it"
        elif many < least:
            left_out[name] = f"{name}, with {many} patients: smallest_site = {least}"
            named.remove(name)
    if lost := [name for name in study.hospitals if name not in named]:
        reason = f"hospitals names {lost[0]!r}, which has {count[lost[0]]} patients: smallest_site = {least}"
        raise InvalidConfiguration(reason, "Take it out of hospitals, or choose a smaller smallest_site.")
    if not left_out:
        return everybody
    if not named:
        raise InvalidPartition(f"no site has {least} patients", "Choose a smaller smallest_site.")
    return Chosen(np.flatnonzero([name in named for name in names]), left_out)


def _names_of_some(sites: Sequence[str], wanted: Collection[str]) -> list[str]:
    """The hospital of each record where only the ``wanted`` take part: who has no name is none of them."""
    known = dict[str, str]()
    texts = list(dict.fromkeys(text.strip() for text in sites))
    for text, spelled in zip(texts, one_spelling(texts, "the sites"), strict=True):
        try:
            known[text] = site_name(spelled)
        except InvalidPartition:
            known[text] = _NONE
    hospital_names([text for text, name in known.items() if name in wanted])  # or it would be two sites
    return [known[text.strip()] for text in sites]


def _require_known(study: StudyFile, found: Collection[str]) -> None:
    sites = [name for name in found if name != _NONE]
    assert isinstance(study.partition, SitePartition)  # noqa: S101 - the caller has looked
    known = f"It has {', '.join(sites)}."
    if unknown := [name for name in study.hospitals if name not in sites]:
        raise InvalidConfiguration(f"{study.label} has no hospital {unknown[0]!r}", known)
    if study.public is not None and study.public.hospital is not None and study.public.hospital not in sites:
        raise InvalidConfiguration(f"[public] hospital = {study.public.hospital!r} is none of this study", known)
    if strangers := sorted(set(study.partition.large) - set(sites)):
        raise InvalidPartition(f"large names no site of the data: {strangers[0]!r} is none of {', '.join(sites)}")
