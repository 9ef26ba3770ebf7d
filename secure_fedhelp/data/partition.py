"""Dealing records to hospitals, and into parts, by patient always: all records of a patient go the same way.

Two spellings of one patient go the same way (study/patients.py). Pure functions of patients, classes and a generator
of random numbers. Each returns the indices of the records by hospital, every record in exactly one; InvalidPartition if
a hospital would be left with too few patients.

    by_site       as the records came: a column says where each patient was treated
    by_sizes      hospitals of given shares, the classes in the same proportion in each
    by_dirichlet  hospitals of given shares whose classes differ, the more the smaller ``alpha``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.records import Indices, Labels
from secure_fedhelp.errors import InvalidPartition
from secure_fedhelp.study.patients import canonical_patient

Parts = dict[str, Indices]
#: A hospital whose records are of one class cannot take part (data/checks.py).
FEWEST_CLASSES = 2


def by_site(patients: Sequence[str], sites: Sequence[str], minimum: int = 1) -> Parts:
    """The records of each site, sites in order of their names. A patient with records at two sites is refused."""
    at: dict[str, str] = {}
    for patient, site in zip(map(canonical_patient, patients), sites, strict=True):
        if at.setdefault(patient, site) != site:
            raise InvalidPartition(
                f"patient {patient!r} has records at {at[patient]!r} and at {site!r}",
                "Keep a patient at one hospital, or give each hospital's patients identifiers of their own.",
            )
    column = np.asarray(sites)
    parts = {site: np.flatnonzero(column == site) for site in sorted(set(sites))}
    return _enough(parts, patients, minimum)


def by_sizes(
    patients: Sequence[str],
    classes: Labels,
    shares: Mapping[str, float],
    rng: np.random.Generator,
    minimum: int = 1,
) -> Parts:
    """Hospitals of these shares of the patients, of each class alike: within one patient a class of the share.

    What rounding leaves over goes to the hospital with the largest share.
    """
    largest, total = max(shares, key=lambda name: shares[name]), sum(shares.values())
    others = [name for name in shares if name != largest]
    count = len({*map(canonical_patient, patients)})
    dealt = split(patients, classes, [round(shares[name] / total * count) for name in others], rng)
    parts = dict(zip([*others, largest], dealt, strict=True))
    return _enough({name: parts[name] for name in shares}, patients, minimum)


def by_dirichlet(
    patients: Sequence[str],
    classes: Labels,
    shares: Mapping[str, float],
    alpha: float,
    rng: np.random.Generator,
    minimum: int = 1,
) -> Parts:
    """Hospitals of these shares of the patients, each with its own mixture of classes q ~ Dirichlet(alpha p).

    After Hsu, Qi and Brown ("Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019): p are the frequencies of the classes among all patients, a hospital draws each of its
    patients' classes from its q without replacement, and a class that has run out is left out of q. With a large alpha
    every hospital is like the whole; as alpha falls towards 0 each has nearly one class.

    *(Ours)*: sizes follow ``shares`` (largest remainders), where theirs are equal; the places of all hospitals are
    filled in random order, so that what is left over at the end is not one hospital's; and each hospital first gets one
    patient of each of its two likeliest classes, since with one class it could not take part.
    """
    groups, kinds = _patients(patients, classes)
    names, sizes = list(shares), _largest_remainders(list(shares.values()), len(groups))
    values, codes = np.unique(kinds, return_inverse=True)
    left = np.bincount(codes).astype(np.int64)
    mixtures = rng.dirichlet(alpha * left / left.sum(), size=len(names))
    drawn = _draw_classes(mixtures, np.asarray(sizes), left, rng)
    waiting = [list(rng.permutation(np.flatnonzero(codes == code))) for code in range(len(values))]
    parts: Parts = {}
    for name, counts in zip(names, drawn, strict=True):
        chosen = [waiting[code].pop() for code in range(len(values)) for _ in range(counts[code])]
        parts[name] = _join(groups, rng.permutation(np.asarray(chosen, dtype=np.int64)))
    return _enough(parts, patients, minimum)


def split(patients: Sequence[str], classes: Labels, counts: Sequence[int], rng: np.random.Generator) -> list[Indices]:
    """Disjoint record indices of about ``counts`` patients each, then the rest, every class in proportion."""
    groups, kinds = _patients(patients, classes)
    parts: list[list[Indices]] = [[] for _ in range(len(counts) + 1)]
    edges = np.concatenate([[0], np.cumsum(counts)]) / len(groups)
    if edges[-1] > 1:
        raise InvalidPartition(f"{sum(counts)} patients to set aside, and there are {len(groups)}")
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        cuts = np.round(edges * len(members)).astype(int)
        for number in range(len(counts)):
            parts[number].append(members[cuts[number] : cuts[number + 1]])
        parts[-1].append(members[cuts[-1] :])
    return [_join(groups, rng.permutation(np.concatenate(part))) for part in parts]


def stratified_order(patients: Sequence[str], classes: Labels, rng: np.random.Generator) -> list[Indices]:
    """Record indices of each patient, in an order of which every beginning has the classes about in proportion.

    So the first five per cent hold the first one per cent. Member i of a class of n, drawn at random, stands at
    (i + 1/2) / n.
    """
    if not patients:
        return []
    groups, kinds = _patients(patients, classes)
    places = np.zeros(len(groups))
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    return [groups[number] for number in np.lexsort((rng.random(len(groups)), places))]


def _patients(patients: Sequence[str], classes: Labels) -> tuple[list[Indices], Labels]:
    """Record indices of each patient in order of appearance, and the commonest class of each (the lowest of equals)."""
    groups: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        groups.setdefault(canonical_patient(patient), []).append(index)
    if not groups:
        raise InvalidPartition("there are no patients to deal out")
    indices = [np.asarray(group, dtype=np.int64) for group in groups.values()]
    return indices, np.asarray([_commonest(classes[group]) for group in indices], dtype=np.int64)


def _commonest(classes: Labels) -> int:
    if len(classes) == 1:  # nearly every patient of nearly every table
        return int(classes[0])
    values, counts = np.unique(classes, return_counts=True)
    return int(values[counts.argmax()])


def _largest_remainders(shares: Sequence[float], count: int) -> NDArray[np.int64]:
    """Whole numbers that add up to ``count``, each within one of its share."""
    exact = np.asarray(shares) / sum(shares) * count
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: count - sizes.sum()]] += 1
    return sizes


def _draw_classes(
    mixtures: NDArray[np.float64], sizes: NDArray[np.int64], left: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Patients of each class for each hospital, [hospitals, classes]; rows add up to ``sizes``, columns to ``left``."""
    left, drawn = left.copy(), np.zeros(mixtures.shape, dtype=np.int64)
    for hospital in np.argsort(sizes, kind="stable"):  # the smallest first: it has the fewest chances
        likeliest = [code for code in np.argsort(-mixtures[hospital], kind="stable") if left[code]][:FEWEST_CLASSES]
        for code in likeliest[: sizes[hospital]]:
            drawn[hospital, code] += 1
            left[code] -= 1
    places = rng.permutation(np.repeat(np.arange(len(sizes)), sizes - drawn.sum(axis=1)))
    for hospital, chance in zip(places, rng.random(len(places)), strict=True):
        weights = np.cumsum(np.where(left > 0, mixtures[hospital], 0.0))
        if weights[-1] <= 0:  # its classes have all run out: as the rest is
            weights = np.cumsum(left.astype(np.float64))
        place = min(chance * weights[-1], np.nextafter(weights[-1], 0))  # rounding must not put it behind the last
        code = int(np.searchsorted(weights, place, side="right"))
        drawn[hospital, code] += 1
        left[code] -= 1
    return drawn


def _join(groups: Sequence[Indices], numbers: Indices) -> Indices:
    """The records of the patients with these numbers."""
    return np.concatenate([groups[number] for number in numbers]) if len(numbers) else np.zeros(0, dtype=np.int64)


def _enough(parts: Parts, patients: Sequence[str], minimum: int) -> Parts:
    for name, indices in parts.items():
        found = len({canonical_patient(patients[index]) for index in indices})
        if found < minimum:
            raise InvalidPartition(f"{name} would have {found} patients, and {minimum} are needed")
    return parts
