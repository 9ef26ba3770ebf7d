"""Partitions: whoever is dealt out is dealt out whole, once, and to the hospital that was meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedhelp.data.partition import Parts, _draw_classes, by_dirichlet, by_site, by_sizes, split
from secure_fedhelp.errors import InvalidPartition

SHARES = {"large": 0.6, "middle": 0.3, "small": 0.1}
People = tuple[list[str], np.ndarray]


@st.composite
def people(draw: st.DrawFn, classes: int = 3) -> People:
    """Records of at least 30 patients in random order, one to three each, of classes 0 to ``classes`` - 1."""
    counts = draw(st.lists(st.integers(1, 3), min_size=30, max_size=60))
    names = [f"p{number}" for number, count in enumerate(counts) for _ in range(count)]
    names = list(draw(st.permutations(names)))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=len(names), max_size=len(names)))
    return names, np.asarray(labels, dtype=np.int64)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


DEALERS: dict[str, Callable[[People], Parts]] = {
    "site": lambda p: by_site(p[0], ["east" if int(name[1:]) % 3 else "west" for name in p[0]]),
    "sizes": lambda p: by_sizes(*p, SHARES, rng()),
    "dirichlet 0.1": lambda p: by_dirichlet(*p, SHARES, 0.1, rng()),
    "dirichlet 100": lambda p: by_dirichlet(*p, SHARES, 100.0, rng()),
    "parts": lambda p: dict(zip("abc", split(*p, [5, 10], rng()), strict=True)),
}


@pytest.mark.parametrize("dealer", DEALERS)
@settings(max_examples=25)
@given(people())
def test_every_record_is_dealt_once_and_no_patient_is_torn_apart(dealer: str, records: People) -> None:
    parts = DEALERS[dealer](records)
    assert sorted(i for indices in parts.values() for i in indices) == list(range(len(records[0])))
    owners = [{records[0][i] for i in indices} for indices in parts.values()]
    assert sum(map(len, owners)) == len(set(records[0]))


@settings(max_examples=25)
@given(people(), st.integers(0, 1000))
def test_shares_are_kept_within_rounding(records: People, seed: int) -> None:
    count = len(set(records[0]))
    for parts, slack in (
        (by_sizes(*records, SHARES, rng(seed)), 3 + 1),  # half a patient a class and edge, and one for the size itself
        (by_dirichlet(*records, SHARES, 0.3, rng(seed)), 1),
    ):
        for name, share in SHARES.items():
            found = len({records[0][i] for i in parts[name]})
            assert abs(found - share * count) <= slack, (name, found)


@settings(max_examples=25)
@given(people())
def test_a_seed_repeats_a_deal(records: People) -> None:
    for dealer in DEALERS.values():
        one, two = dealer(records), dealer(records)
        assert list(one) == list(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def skew(parts: Parts, classes: np.ndarray) -> float:
    """Mean total variation distance of the hospitals' class frequencies from those of all."""
    count = int(classes.max()) + 1
    whole = np.bincount(classes, minlength=count) / len(classes)
    return float(
        np.mean(
            [
                0.5 * np.abs(np.bincount(classes[indices], minlength=count) / len(indices) - whole).sum()
                for indices in parts.values()
            ]
        )
    )


def test_labels_are_the_more_skewed_the_smaller_alpha() -> None:
    classes = rng(5).integers(0, 3, 1200)
    patients = [f"p{number}" for number in range(len(classes))]
    equal = dict.fromkeys("abcdef", 1.0)
    found = [
        np.mean([skew(by_dirichlet(patients, classes, equal, alpha, rng(seed)), classes) for seed in range(4)])
        for alpha in (100.0, 10.0, 1.0, 0.1)
    ]
    assert found == sorted(found)
    assert found[0] < 0.08
    assert found[-1] > 0.35
    assert skew(by_sizes(patients, classes, equal, rng()), classes) < 0.01


@settings(max_examples=25)
@given(st.integers(0, 500))
def test_every_hospital_can_take_part_however_small_alpha_is(seed: int) -> None:
    classes = np.repeat([0, 1], [60, 40])
    patients = [f"p{number}" for number in range(100)]
    parts = by_dirichlet(patients, classes, {**SHARES, "tiny": 0.03}, 1e-3, rng(seed), minimum=2)
    for indices in parts.values():
        assert set(classes[indices]) == {0, 1}


def test_a_hospital_draws_its_classes_from_its_own_mixture() -> None:
    mixtures, sizes, left = np.asarray([[0.9, 0.1], [0.5, 0.5]]), np.asarray([100, 1900]), np.asarray([1000, 1000])
    found = [_draw_classes(mixtures, sizes, left, rng(seed)) for seed in range(20)]
    for drawn in found:
        assert drawn.sum(axis=1).tolist() == [100, 1900]
        assert drawn.sum(axis=0).tolist() == [1000, 1000]
    # Without replacement the mixture moves a little towards the other class at the very end: 0.9 less a few hundredths.
    assert 0.84 < np.mean([drawn[0, 0] for drawn in found]) / 100 < 0.92


def test_too_few_patients_for_a_hospital_are_named() -> None:
    classes = np.repeat([0, 1], 20)
    patients = [f"p{number}" for number in range(40)]
    with pytest.raises(InvalidPartition, match="small would have 4 patients, and 10"):
        by_sizes(patients, classes, SHARES, rng(), minimum=10)
    with pytest.raises(InvalidPartition, match="small would have 4"):
        by_dirichlet(patients, classes, SHARES, 1.0, rng(), minimum=10)
    with pytest.raises(InvalidPartition, match="west would have 1"):
        by_site(["a", "b", "c"], ["east", "east", "west"], minimum=2)
    with pytest.raises(InvalidPartition, match="and there are 40"):
        split(patients, classes, [30, 20], rng())
    with pytest.raises(InvalidPartition, match="no patients"):
        by_sizes([], np.zeros(0, dtype=np.int64), SHARES, rng())


def test_a_patient_at_two_sites_is_refused() -> None:
    with pytest.raises(InvalidPartition, match="'a' has records at 'east' and at 'west'"):
        by_site(["a", "b", "a"], ["east", "east", "west"])


def test_parts_keep_the_classes_in_proportion() -> None:
    classes = np.repeat([0, 1], [150, 50])
    patients = [f"p{number}" for number in range(200)]
    one, two, rest = split(patients, classes, [40, 20], rng())
    assert [len(one), len(two), len(rest)] == [40, 20, 140]
    assert classes[one].sum() == 10
    assert classes[two].sum() == 5
