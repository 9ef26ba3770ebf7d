"""The figures of the profiles: the modulus is SEAL's, the security the standard's, sizes and capacity as promised."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tenseal.sealapi as sealapi

from secure_fedhelp.errors import CapacityExceeded, InvalidPlan, VersionMismatch
from secure_fedhelp.secagg.keys import seal_context
from secure_fedhelp.secagg.profiles import PROFILES, Profile, profile

ALL = list(PROFILES.values())
LEVELS = {128: sealapi.SEC_LEVEL_TYPE.TC128, 256: sealapi.SEC_LEVEL_TYPE.TC256}


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_modulus_is_the_prime_that_seal_creates(p: Profile) -> None:
    (prime,) = sealapi.CoeffModulus.Create(p.ring_degree, [p.modulus_bits])
    assert p.modulus == prime.value()
    assert p.modulus.bit_length() == p.modulus_bits
    assert p.modulus % (2 * p.ring_degree) == 1  # an NTT prime


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_modulus_is_within_the_standards_row_for_its_security(p: Profile) -> None:
    standard_table = {(1024, 128): 27, (2048, 128): 54, (4096, 256): 58}
    limit = standard_table[p.ring_degree, p.security_bits]
    assert sealapi.CoeffModulus.MaxBitCount(p.ring_degree, LEVELS[p.security_bits]) == limit
    assert p.modulus_bits <= limit
    assert f"{p.security_bits} bits at N = {p.ring_degree} up to {limit} bits" in p.source


def test_library_that_refuses_a_modulus_is_named() -> None:
    too_large = dataclasses.replace(profile("compact"), modulus_bits=54, modulus=18014398509404161)
    with pytest.raises(VersionMismatch, match="compact"):
        seal_context(too_large)
    with pytest.raises(VersionMismatch):
        seal_context(dataclasses.replace(profile("standard"), modulus=12289))


def test_unknown_profile_is_an_invalid_plan_that_lists_the_known() -> None:
    with pytest.raises(InvalidPlan, match="'huge'.*compact, standard, strong"):
        profile("huge")
    assert profile("standard").name == "standard"


def test_upload_costs_about_seven_bytes_a_value() -> None:
    p = profile("standard")
    assert p.bytes_per_value(100 * 2048) == 7 + 64 / 2048 <= 7.1
    assert profile("strong").bytes_per_value(100 * 4096) <= 7.1
    assert profile("compact").bytes_per_value(100 * 1024) <= 4.1
    assert p.bytes_per_value(1) == p.body_bytes(1)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2047, 1), (2048, 1), (2049, 2), (4096, 2), (4097, 3)])
def test_sizes_follow_from_the_length_alone(length: int, count: int) -> None:
    p = profile("standard")
    assert p.ciphertexts(length) == count
    assert p.body_bytes(length) == count * (64 + 2048 * 7)
    assert p.sum_bytes(length, 10) == count * (10 * 64 + 2048 * 7)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_capacity_is_exact_at_its_corner(p: Profile) -> None:
    p.check_capacity(p.largest_sum)
    p.check_capacity(0.0)
    for beyond in (math.nextafter(p.largest_sum, math.inf), math.inf, math.nan):
        with pytest.raises(CapacityExceeded, match=p.name):
            p.check_capacity(beyond)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_capacity_leaves_room_for_the_noise_of_a_million_hospitals(p: Profile) -> None:
    largest_coefficient = math.sqrt(2) * p.largest_sum * 2**p.scale_bits
    assert largest_coefficient <= 2 ** (p.modulus_bits - 2)
    assert largest_coefficient + 1_000_000 * 21.5 < p.modulus / 2


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_error_bound_grows_with_the_cohort(p: Profile) -> None:
    bounds = [p.error_bound(n) for n in (1, 2, 10, 100)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < p.largest_sum / 100
