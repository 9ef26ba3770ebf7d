"""Which hospitals of a simulated study could not take part, before anything is trained.

A deployed hospital refuses by itself (data/checks.py) before it joins; the others then wait for it. In a simulation all
records are known beforehand, so nobody has to wait to hear it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from secure_fedhelp.data.checks import require_drawn, require_two_classes
from secure_fedhelp.errors import FedHelpError, OneClassOnly, TooFewPatients
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.dealing import FEWEST_HOSPITALS
from secure_fedhelp.research.plans import nominal, study_defaults
from secure_fedhelp.research.study_file import SitePartition, StudyFile

#: By the hospital's name.
Unfit = dict[str, FedHelpError]


def unfit_hospitals(study: StudyFile, data: StudyData) -> Unfit:
    """What keeps each of these hospitals out of the study: OneClassOnly, or TooFewPatients for the study's rate."""
    classes, tiers = data.data_section_fields["classes"], study_defaults(study, data).tiers
    found: Unfit = {}
    for name, (tier, records) in data.hospitals.items():
        try:
            require_two_classes(records, classes, name)
            require_drawn(nominal(records.n_patients), tiers[tier].sampling_rate, name)
        except FedHelpError as error:
            found[name] = error
    return found


def require_test_of_classes(data: StudyData) -> None:
    """OneClassOnly if nothing could be measured on the test part, by anybody."""
    if len(present := np.unique(data.test.labels)) < 2:
        found = ", ".join(data.data_section_fields["classes"][label] for label in present) or "no record"
        hint = "Set more patients aside: [parts] test = ..., or give the test part records of each class."
        raise OneClassOnly(f"the test part has records of one class only ({found})", hint)


def require_fit(study: StudyFile, data: StudyData) -> None:
    """Raise what is wrong with a study that is to be simulated as it is: all of its hospitals have to take part."""
    require_test_of_classes(data)
    if unfit := unfit_hospitals(study, data):
        raise refusal(study, data, unfit)


def refusal(study: StudyFile, data: StudyData, unfit: Mapping[str, FedHelpError]) -> FedHelpError:
    """One error for all hospitals that cannot take part, of the first one's kind, and what to do about it."""
    first = next(iter(unfit.values()))
    reason = "; ".join(error.message for error in unfit.values())
    return type(first)(f"the study cannot start: {reason}", advice(study, list(data.hospitals), unfit))


def advice(study: StudyFile, hospitals: list[str], unfit: Mapping[str, FedHelpError]) -> str:
    """What a researcher can do about hospitals that cannot take part."""
    others, ways = [name for name in hospitals if name not in unfit], list[str]()
    if len(others) >= FEWEST_HOSPITALS:
        way = f"leave out who cannot: hospitals = {json.dumps(others)}"
        own_sites = study.data is not None and isinstance(study.partition, SitePartition)
        ways.append(way + (" (or smallest_site = N, of sites that are small)" if own_sites else ""))
    if any(isinstance(error, TooFewPatients) for error in unfit.values()):
        ways.append("take a larger sampling rate: [privacy] sampling_rate")
    ways.append("deal the patients in another way: [partition]")
    said = "; or ".join(ways)
    return said[0].upper() + said[1:] + ". Nothing was trained."
