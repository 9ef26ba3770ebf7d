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
    primes = sealapi.CoeffModulus.Create(p.ring_degree, [q.bit_length() for q in p.key_moduli])
    assert p.key_moduli == tuple(prime.value() for prime in primes)
    assert all(q % (2 * p.ring_degree) == 1 for q in p.key_moduli)  # NTT primes


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_library_accepts_every_profile_and_encrypts_under_its_data_primes(p: Profile) -> None:
    context = seal_context(p)
    assert context.parameters_set()
    assert context.key_context_data().qualifiers().sec_level == LEVELS[p.security_bits]
    assert tuple(q.value() for q in context.first_context_data().parms().coeff_modulus()) == p.moduli
    assert (p.special is None) == (len(p.moduli) == 1)  # as soon as there are two, SEAL sets the last one aside


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_moduli_broadcast_over_residues(p: Profile) -> None:
    assert p.moduli_column().shape == (len(p.moduli), 1)
    assert p.moduli_column()[:, 0].tolist() == list(p.moduli)
    assert len({-(-q.bit_length() // 8) for q in p.moduli}) == 1  # one width for all, and no byte wasted
    assert p.residue_bytes * 8 - 8 < p.moduli[0].bit_length() <= p.residue_bytes * 8
    assert p.residue_bytes * 8 >= max(p.key_moduli).bit_length()


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_modulus_is_within_the_standards_row_for_its_security(p: Profile) -> None:
    standard_table = {(1024, 128): 27, (2048, 128): 54, (4096, 128): 109, (4096, 256): 58}
    limit = standard_table[p.ring_degree, p.security_bits]
    assert sealapi.CoeffModulus.MaxBitCount(p.ring_degree, LEVELS[p.security_bits]) == limit
    assert p.modulus_bits <= sum(q.bit_length() for q in p.key_moduli) <= limit
    assert f"{p.security_bits} bits at N = {p.ring_degree} up to {limit} bits" in p.source


def test_library_that_refuses_a_modulus_is_named() -> None:
    too_large = dataclasses.replace(profile("compact"), moduli=(18014398509404161,))
    with pytest.raises(VersionMismatch, match="compact"):
        seal_context(too_large)
    with pytest.raises(VersionMismatch):
        seal_context(dataclasses.replace(profile("standard"), moduli=(40961,)))  # not the largest of 16 bits
    with pytest.raises(VersionMismatch):
        seal_context(dataclasses.replace(profile("exact"), moduli=profile("exact").moduli[::-1]))


def test_unknown_profile_is_an_invalid_plan_that_lists_the_known() -> None:
    with pytest.raises(InvalidPlan, match="'huge'.*compact, deep, exact, fine, standard, strong"):
        profile("huge")
    assert profile("standard").name == "standard"


def test_upload_costs_about_seven_bytes_a_value() -> None:
    length = 100 * 4096
    cost = {name: p.body_bytes(length) / length for name, p in PROFILES.items()}
    assert cost["standard"] == cost["fine"] == cost["strong"] == 7 + 32 / length <= 7.01
    assert cost["compact"] <= 4.01
    assert cost["exact"] == cost["deep"] <= 10.01


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2047, 1), (2048, 1), (2049, 2), (4096, 2), (4097, 3)])
def test_sizes_follow_from_the_length_alone(length: int, count: int) -> None:
    p = profile("standard")
    assert p.ciphertexts(length) == count
    assert p.body_bytes(length) == 32 + count * 2048 * 7
    assert p.sum_bytes(length, 10) == 10 * 32 + count * 2048 * 7


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
    # Of a profile with a multiplication left: of the primes that are left after it.
    modulus = math.prod(p.moduli[: len(p.moduli) - p.multiplications])
    assert largest_coefficient <= 2 ** (modulus.bit_length() - 2)
    assert largest_coefficient + 1_000_000 * 21.5 < modulus / 2


def test_what_each_profile_is_for() -> None:
    standard, fine, exact, deep = (profile(name) for name in ("standard", "fine", "exact", "deep"))
    assert fine.error_bound(10, 1.0) == pytest.approx(standard.error_bound(10, 1.0) / 64, rel=0.01)
    assert 45 < fine.largest_sum < 46
    assert 45 < deep.largest_sum < 46
    assert exact.largest_sum > 10_000
    assert exact.error_bound(10, 1.0) < 1e-11
    assert [p.name for p in ALL if p.multiplications] == ["deep"]
    assert [p.name for p in ALL if p.security_bits > 128] == ["strong"]


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_smaller_sums_err_less_but_never_less_than_the_noise(p: Profile) -> None:
    assert p.error_bound(10) == p.error_bound(10, p.largest_sum)
    assert p.error_bound(10) > p.error_bound(10, 0.0) > math.sqrt(10 * 10.5 * p.ring_degree / 2) / 2**p.scale_bits


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_error_bound_grows_with_the_cohort(p: Profile) -> None:
    bounds = [p.error_bound(n) for n in (1, 2, 10, 100)]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] < p.largest_sum / 100
