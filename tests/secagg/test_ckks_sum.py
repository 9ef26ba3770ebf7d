"""Encrypt, add, decrypt: the sum is right within the stated bound, up to the capacity, and to key holders only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_fedhelp.errors import CapacityExceeded, CiphertextNotCanonical, CiphertextWrongLength, InvalidContribution
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.keys import StudyKey, seal_context
from secure_fedhelp.secagg.layout import MemoryFile, ciphertext_form
from secure_fedhelp.secagg.packing import Residues, SumAccumulator, add_modulo, pack_body, split_sum
from secure_fedhelp.secagg.profiles import PROFILES, Profile

ALL = list(PROFILES.values())


def summed(profile: Profile, bodies: list[bytes], length: int) -> tuple[bytes, tuple[str, ...]]:
    """What the coordinator publishes, and the cohort."""
    total = SumAccumulator(profile, length)
    cohort = tuple(f"hospital-{i}" for i in range(len(bodies)))
    for name, body in zip(cohort, bodies, strict=True):
        total.add(name, body)
    return total.finish(), cohort


def error_of_sum(cipher: Cipher, contributions: list[np.ndarray]) -> np.ndarray:
    length = len(contributions[0])
    data, cohort = summed(cipher.profile, [cipher.encrypt(c) for c in contributions], length)
    decrypted = cipher.decrypt_sum(data, cohort, length)
    assert decrypted.shape == (length,)
    assert decrypted.dtype == np.float64
    error: np.ndarray = np.abs(decrypted - np.sum(contributions, axis=0))
    return error


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decrypted_sum_is_the_sum_within_the_bound(p: Profile, ciphers: dict[str, Cipher], data: st.DataObject) -> None:
    n = p.ring_degree
    length = data.draw(st.sampled_from([1, 2, n - 1, n, n + 1]) | st.integers(1, n))
    cohort_size = data.draw(st.integers(1, 10))
    largest = p.largest_sum / cohort_size * data.draw(st.sampled_from([1.0, 1e-3, 0.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    signs = rng.choice([-1.0, 1.0], (cohort_size, length))  # every value as large as it may be
    spread = rng.uniform(-1, 1, (cohort_size, length))
    contributions = largest * data.draw(st.sampled_from([signs, spread, np.ones_like(signs)]))
    assert error_of_sum(ciphers[p.name], list(contributions)).max() <= p.error_bound(cohort_size)


@pytest.mark.parametrize("cohort_size", [1, 10])
@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_error_bound_is_not_idle(p: Profile, ciphers: dict[str, Cipher], cohort_size: int) -> None:
    rng = np.random.default_rng(2)
    contributions = list(rng.uniform(-1, 1, (cohort_size, 4096)))
    largest, bound = error_of_sum(ciphers[p.name], contributions).max(), p.error_bound(cohort_size, cohort_size)
    # Of transforms in float64 only a bound for the worst vector is known; none that anybody meets comes near it.
    assert bound / (1_000_000 if p.name == "exact" else 100) < largest < bound


@pytest.mark.parametrize("p", [p for p in ALL if p.name != "exact"], ids=lambda p: p.name)  # there float64 errs more
def test_measured_noise_is_the_noise_of_the_derivation(p: Profile, ciphers: dict[str, Cipher]) -> None:
    rng = np.random.default_rng(3)
    error = error_of_sum(ciphers[p.name], list(rng.uniform(-1, 1, (3, 20_480))))
    # Noise of variance 10.5 and, for values without structure, rounding of variance 1/12, over N coefficients.
    expected = math.sqrt(3 * (10.5 + 1 / 12) * p.ring_degree / 2) / 2**p.scale_bits
    assert np.sqrt(np.mean(error**2)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_capacity_is_the_librarys_limit(p: Profile, ciphers: dict[str, Cipher]) -> None:
    # Slots whose phases all agree with those of coefficient N/4: that coefficient becomes sqrt(2) times a value.
    aligned = np.tile([1.0, 1.0, -1.0, 1.0], p.ring_degree // 4)
    cipher, plaintext = ciphers[p.name], sealapi.Plaintext()
    assert error_of_sum(cipher, [p.largest_sum * aligned]).max() <= p.error_bound(1)
    if not p.multiplications:  # a profile that keeps room for a product stays far below what can be encoded
        beyond = (1.0001 * p.largest_sum * aligned).view(np.complex128).tolist()
        with pytest.raises(ValueError, match="too large"):
            sealapi.CKKSEncoder(seal_context(p)).encode(beyond, 2.0**p.scale_bits, plaintext)
    with pytest.raises(CapacityExceeded):
        cipher.encrypt(1.0001 * p.largest_sum * aligned)
    with pytest.raises(CapacityExceeded):
        p.check_capacity(3 * p.largest_sum)


@pytest.mark.parametrize("p", [p for p in ALL if not p.multiplications], ids=lambda p: p.name)
def test_beyond_the_capacity_a_sum_wraps_in_silence(p: Profile, ciphers: dict[str, Cipher]) -> None:
    # Three of them pass q/2: the library says nothing and the sum is wrong, which is why the plan is checked before.
    aligned = np.tile([1.0, 1.0, -1.0, 1.0], p.ring_degree // 4)
    assert error_of_sum(ciphers[p.name], [p.largest_sum * aligned] * 3).max() > 0.1 * p.largest_sum


def test_another_hospital_with_the_same_key_decrypts_the_same(standard: Profile, keys: dict[str, StudyKey]) -> None:
    here = Cipher(standard, keys["standard"])
    there = Cipher(standard, StudyKey.from_bytes(standard, keys["standard"].to_bytes()))
    values = np.linspace(-5, 5, 3000)
    data, cohort = summed(standard, [here.encrypt(values), there.encrypt(2 * values)], 3000)
    assert (here.decrypt_sum(data, cohort, 3000) == there.decrypt_sum(data, cohort, 3000)).all()
    assert np.abs(there.decrypt_sum(data, cohort, 3000) - 3 * values).max() <= standard.error_bound(2)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_wrong_key_opens_nothing(p: Profile, ciphers: dict[str, Cipher]) -> None:
    values = np.ones(p.ring_degree)
    data, cohort = summed(p, [ciphers[p.name].encrypt(values)], len(values))
    garbage = Cipher(p, StudyKey.generate(p)).decrypt_sum(data, cohort, len(values))
    # Uniform coefficients modulo q: the decoded values are as wide as the whole modulus allows, around nothing.
    expected = p.modulus / math.sqrt(12) * math.sqrt(p.ring_degree / 2) / 2**p.scale_bits
    assert np.std(garbage) == pytest.approx(expected, rel=0.15)
    assert abs(np.corrcoef(garbage, np.arange(len(values)))[0, 1]) < 0.3


def test_seed_is_never_used_twice(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    # Two ciphertexts of one key under one seed would show the difference of their messages to everybody.
    values, key = np.zeros(3), StudyKey.generate(standard)
    seeds = [Cipher(standard, key).encrypt_residues(values)[0] for _ in range(3)]
    seeds += [ciphers["standard"].encrypt_residues(values)[0] for _ in range(3)]
    assert {len(seed) for seed in seeds} == {32}
    assert len(set(seeds)) == len(seeds)


def test_equal_values_encrypt_to_different_residues(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    values = np.ones(standard.ring_degree)
    first, second = (ciphers["standard"].encrypt_residues(values)[1] for _ in range(2))
    assert (first == second).mean() < 0.01


def test_residues_look_uniform_below_the_modulus(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    _, residues = ciphers["standard"].encrypt_residues(np.zeros(10 * standard.ring_degree))
    assert residues.max() < standard.modulus
    spread = residues.ravel() / standard.modulus
    assert np.histogram(spread, bins=8, range=(0, 1))[0] == pytest.approx(residues.size / 8, rel=0.1)


def test_mask_added_to_residues_cancels_in_the_sum(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    cipher, values = ciphers["standard"], np.linspace(-1, 1, 2048)
    mask = np.random.default_rng(4).integers(0, standard.modulus, (1, 1, 2048), dtype=np.uint64)
    bodies = []
    for part in (mask, np.uint64(standard.modulus) - mask):
        seed, residues = cipher.encrypt_residues(values)
        add_modulo(residues, part % np.uint64(standard.modulus), standard.modulus)
        bodies.append(pack_body(standard, seed, residues))
    alone, cohort = summed(standard, bodies[:1], 2048)
    assert np.abs(cipher.decrypt_sum(alone, cohort, 2048)).max() > 1e4
    both, cohort = summed(standard, bodies, 2048)
    assert np.abs(cipher.decrypt_sum(both, cohort, 2048) - 2 * values).max() <= standard.error_bound(2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(ciphers: dict[str, Cipher], bad: float) -> None:
    with pytest.raises(InvalidContribution, match="NaN or infinity"):
        ciphers["standard"].encrypt(np.array([0.0, bad, 1.0]))


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_contribution_is_one_vector(ciphers: dict[str, Cipher], shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidContribution, match="one vector"):
        ciphers["standard"].encrypt(np.zeros(shape))


def test_corrupt_sum_is_refused_before_the_library_sees_it(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    cipher = ciphers["standard"]
    data, cohort = summed(standard, [cipher.encrypt(np.ones(10))], 10)
    with pytest.raises(CiphertextWrongLength):
        cipher.decrypt_sum(data[:-1], cohort, 10)
    with pytest.raises(CiphertextWrongLength):
        cipher.decrypt_sum(data, (*cohort, "another"), 10)
    with pytest.raises(CiphertextNotCanonical):
        cipher.decrypt_sum(b"\xff" * 7 + data[7:], cohort, 10)


def test_changed_residue_or_seed_changes_the_whole_result(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    # CKKS has no integrity: whoever may change a sum changes the result. Signatures and hashes above must hold.
    cipher, values = ciphers["standard"], np.ones(2048)
    data, cohort = summed(standard, [cipher.encrypt(values)], 2048)
    for place in (5, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        assert np.abs(cipher.decrypt_sum(changed, cohort, 2048) - values).max() > 1


def test_padding_decrypts_to_zero(standard: Profile, ciphers: dict[str, Cipher]) -> None:
    data, cohort = summed(standard, [ciphers["standard"].encrypt(np.full(3, 7.0))], 3)
    whole = ciphers["standard"].decrypt_sum(data, cohort, standard.ring_degree)
    assert np.abs(whole[:3] - 7.0).max() <= standard.error_bound(1)
    assert np.abs(whole[3:]).max() <= standard.error_bound(1)


def test_key_of_another_profile_is_a_mistake_of_the_program(keys: dict[str, StudyKey]) -> None:
    with pytest.raises(ValueError, match="'compact'.*'standard'"):
        Cipher(PROFILES["standard"], keys["compact"])


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_sum_taken_apart_holds_the_seed_and_residues_that_were_sent(p: Profile, ciphers: dict[str, Cipher]) -> None:
    length = p.ring_degree + 1
    seed, residues = ciphers[p.name].encrypt_residues(np.arange(length) / length)
    assert residues.shape == (2, len(p.moduli), p.ring_degree)
    data, cohort = summed(p, [pack_body(p, seed, residues)], length)
    got_residues, got_seeds = split_sum(p, length, cohort, data)
    assert (got_residues == residues).all()
    assert got_seeds == {cohort[0]: seed}


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_ciphertexts_of_one_upload_use_different_parts_of_the_seed(p: Profile, ciphers: dict[str, Cipher]) -> None:
    # Under one c1 the difference of two residues would be the difference of two messages and noises: small.
    _, residues = ciphers[p.name].encrypt_residues(np.zeros(3 * p.ring_degree))
    distance = (residues[1:] - residues[:-1] + p.moduli_column()) % p.moduli_column()
    assert (np.minimum(distance, p.moduli_column() - distance) < 2**20).mean() < 0.1


def loaded(p: Profile, c0: Residues, seeds: tuple[bytes, ...]) -> Any:
    """One ciphertext as SEAL's, from what travels."""
    form = ciphertext_form(len(p.moduli), p.ring_degree, seal_context(p).first_parms_id(), 2.0**p.scale_bits)
    form.residues[0], form.residues[1] = c0, 0
    add_expanded(form.residues[1:], p, seeds)
    ciphertext = sealapi.Ciphertext()
    MemoryFile().load(ciphertext, seal_context(p), form)
    return ciphertext


def opened(p: Profile, key: StudyKey, ciphertext: Any) -> np.ndarray:
    """What SEAL decrypts by itself."""
    plaintext = sealapi.Plaintext()
    sealapi.Decryptor(seal_context(p), key.secret_key()).decrypt(ciphertext, plaintext)
    slots = sealapi.CKKSEncoder(seal_context(p)).decode_complex(plaintext)
    return np.array(slots).view(np.float64)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_upload_is_an_encryption_that_the_library_opens_by_itself(p: Profile, keys: dict[str, StudyKey]) -> None:
    values = np.random.default_rng(9).uniform(-1, 1, p.ring_degree)
    seed, residues = Cipher(p, keys[p.name]).encrypt_residues(values)
    ciphertext = loaded(p, residues[0], (seed,))
    assert np.abs(opened(p, keys[p.name], ciphertext) - values).max() <= p.error_bound(1)


def multiply(p: Profile, ciphertext: Any, factors: np.ndarray) -> None:
    """A ciphertext times a plaintext of real factors [N/2], rescaled: what anybody can do with a published sum."""
    plaintext, evaluator = sealapi.Plaintext(), sealapi.Evaluator(seal_context(p))
    sealapi.CKKSEncoder(seal_context(p)).encode(factors.astype(complex).tolist(), float(p.moduli[-1]), plaintext)
    evaluator.multiply_plain_inplace(ciphertext, plaintext)
    evaluator.rescale_to_next_inplace(ciphertext)


@pytest.mark.parametrize("largest_factor", [0.25, 1.0, 4.0])
def test_one_multiplication_is_left_in_deep(
    ciphers: dict[str, Cipher], keys: dict[str, StudyKey], largest_factor: float
) -> None:
    p, rng = PROFILES["deep"], np.random.default_rng(6)
    assert p.multiplications == 1
    largest = min(1.0, 1 / largest_factor) * p.largest_sum
    contributions = list(largest / 3 * rng.choice([-1.0, 1.0], (3, p.ring_degree)))
    factors = rng.choice([-largest_factor, largest_factor], p.ring_degree // 2)
    data, cohort = summed(p, [ciphers["deep"].encrypt(c) for c in contributions], p.ring_degree)
    residues, seeds = split_sum(p, p.ring_degree, cohort, data)
    ciphertext = loaded(p, residues[0], tuple(seeds.values()))
    multiply(p, ciphertext, factors)
    product = np.sum(contributions, axis=0) * np.repeat(factors, 2)
    error, bound = np.abs(opened(p, keys["deep"], ciphertext) - product).max(), p.product_error_bound(3, largest_factor)
    assert bound / 1000 < error <= bound < 1e-3


@pytest.mark.parametrize("p", [p for p in ALL if not p.multiplications], ids=lambda p: p.name)
def test_no_multiplication_is_left_elsewhere(p: Profile, ciphers: dict[str, Cipher]) -> None:
    seed, residues = ciphers[p.name].encrypt_residues(np.ones(p.ring_degree))
    with pytest.raises(ValueError, match="scale out of bounds|end of modulus switching chain"):
        multiply(p, loaded(p, residues[0], (seed,)), np.ones(p.ring_degree // 2))


def test_sum_multiplied_twice_in_deep_is_refused(ciphers: dict[str, Cipher]) -> None:
    p = PROFILES["deep"]
    seed, residues = ciphers["deep"].encrypt_residues(np.ones(p.ring_degree))
    ciphertext = loaded(p, residues[0], (seed,))
    multiply(p, ciphertext, np.ones(p.ring_degree // 2))
    with pytest.raises(ValueError, match="parameter mismatch|end of modulus switching chain"):
        multiply(p, ciphertext, np.ones(p.ring_degree // 2))
