"""The noise has the deviation that the derivation asks for, comes from the key alone, and is never the same twice."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import example_plan
from scipy import integrate, optimize, stats

from secure_fedhelp.errors import CapacityExceeded, NotReleasable
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.profiles import PROFILES
from secure_fedhelp.secagg.sanitise import (
    SOURCE,
    Flooding,
    _gaussians,
    error_norm,
    flooding,
    plan_flooding,
    sanitise,
)

STANDARD = PROFILES["standard"]
KEY, CONTEXT = bytes(range(32)), b"study, round and sum"
#: A test of a true null hypothesis fails with this probability; under a fixed key it does so always or never.
LEVEL = 1e-6
LENGTH = 5000


@pytest.fixture(scope="module")
def noise() -> Flooding:
    return flooding(STANDARD, LENGTH, cohort_size=10, decryptions=12, security_bits=30)


# --- the deviation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decryptions", [1, 12, 400])
@pytest.mark.parametrize("length", [1, 2048, 100_000])
@pytest.mark.parametrize("cohort_size", [2, 10])
@pytest.mark.parametrize("name", ["compact", "standard", "fine", "strong"])
def test_error_norm_is_that_of_an_independent_computation(
    name: str, cohort_size: int, length: int, decryptions: int
) -> None:
    """From the noise of one value, and the exact quantile of chi-square in place of a bound on it."""
    profile = PROFILES[name]
    degree, delta = profile.ring_degree, 2.0**profile.scale_bits
    one_value = math.sqrt(cohort_size * 42 / 4 * degree / 2) / delta  # 42 fair bits of variance 1/4 a coefficient
    numbers = decryptions * math.ceil(length / degree) * degree
    norm = one_value * math.sqrt(stats.chi2.isf(2.0**-64, numbers))
    assert norm <= error_norm(profile, length, cohort_size, decryptions, 0.0) < 1.02 * norm
    # Floating point: 7 u log2(N) of the norm of both halves of the slots, each value at twice the largest.
    largest = 0.1 * profile.largest_sum
    slots = np.linalg.norm(np.full(2 * numbers, 2 * largest))
    decoding = 7 * np.finfo(float).eps / 2 * np.log2(degree) * slots
    whole = error_norm(profile, length, cohort_size, decryptions, largest)
    assert norm + decoding <= whole < 1.03 * (norm + decoding)


def test_openfhe_writes_the_same_formula() -> None:
    """sqrt(12 tau) 2^(s/2) t, t being the Euclidean norm of the error of one decryption."""
    one = error_norm(STANDARD, LENGTH, 10, 1, 0.0)
    many = flooding(STANDARD, LENGTH, 10, 400, 30, 10.0)
    assert many.sigma == pytest.approx(math.sqrt(12 * 400) * 2**15 * one, rel=0.1)
    assert many.sigma < math.sqrt(12 * 400) * 2**15 * one, "a bound for all is below the sum of bounds for each"


@pytest.mark.parametrize("name", ["compact", "standard"])
def test_error_norm_bounds_what_decryptions_err_by_and_is_close_to_it(name: str) -> None:
    profile, rng, squares = PROFILES[name], np.random.default_rng(5), 0.0
    cipher, cohort, rounds = Cipher(profile, StudyKey.generate(profile)), ("a", "b", "c"), 4
    length = 3 * profile.ring_degree
    for _ in range(rounds):
        total, exact = SumAccumulator(profile, length), np.zeros(length)
        for member in cohort:
            values = rng.uniform(-1, 1, length)
            total.add(member, cipher.encrypt(values))
            exact += values
        squares += float(np.sum((cipher.decrypt_sum(total.finish(), cohort, length) - exact) ** 2))
    bound = error_norm(profile, length, len(cohort), rounds, 3.0)
    assert 0.85 * bound < math.sqrt(squares) < bound


def test_composing_words_counts_where_the_modulus_has_two() -> None:
    """SEAL's decoder rounds the lower word of a negative coefficient before the upper one cancels it."""
    exact = PROFILES["exact"]
    assert exact.modulus_bits > 64
    degree = exact.ring_degree
    each = 2.0**11 / 2.0**exact.scale_bits * math.sqrt(degree / 2 * degree)
    assert error_norm(exact, 1, 2, 1, 0.0) == pytest.approx(each, rel=0.01), "the noise itself vanishes beside it"


def test_divergence_of_the_two_worlds_is_the_one_promised(noise: Flooding) -> None:
    """By numerical integration, all of the error on one value: rotating it changes nothing."""
    shift = error_norm(STANDARD, LENGTH, 10, 12, noise.largest_sum) / noise.sigma

    def integrand(z: float) -> float:
        return float(stats.norm.pdf(z, shift) * (stats.norm.logpdf(z, shift) - stats.norm.logpdf(z)))

    divergence, _ = integrate.quad(integrand, -12, 12, epsabs=1e-16)
    assert divergence == pytest.approx(2.0**-30 / 24, rel=0.01)
    assert divergence <= 2.0**-30 / 24


@given(security_bits=st.integers(10, 64), ideal=st.floats(-128, -1))
def test_success_grows_by_two_to_minus_s_or_threefold_at_most(security_bits: int, ideal: float) -> None:
    """The claim of the docstring from the divergence of two coins, the larger solution q for a given p."""
    log_p, rho = ideal * math.log(2), 2.0**-security_bits / 24
    p = math.exp(log_p)

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return q * (log_q - log_p) + (1 - q) * (math.log1p(-q) - math.log1p(-p)) - rho

    largest = math.exp(optimize.brentq(excess, log_p, -1e-9))
    assert p <= largest < max(2.0**-security_bits, 3 * p)


def test_more_of_anything_that_leaks_takes_more_noise(noise: Flooding) -> None:
    base = noise.sigma
    assert flooding(STANDARD, LENGTH, 20, 12, 30).sigma > 1.3 * base
    assert flooding(STANDARD, LENGTH, 10, 48, 30).sigma > 1.8 * base
    assert flooding(STANDARD, 4 * 6144, 10, 12, 30).sigma > 1.8 * base
    assert flooding(STANDARD, LENGTH, 10, 12, 40).sigma == pytest.approx(32 * base, rel=1e-3)


def test_a_profile_without_room_for_the_noise_is_refused_with_the_figures() -> None:
    with pytest.raises(NotReleasable) as caught:
        flooding(PROFILES["compact"], 10_000, 10, 12, 30)
    for word in ("'compact'", "30 bits", "12 sums", "10000 values", "10 hospitals", "4.48e+03", "11.3"):
        assert word in caught.value.message
    assert "larger scale" in caught.value.hint
    assert "closed" in caught.value.hint
    # The same noise, and sums that are never large enough to show through it.
    with pytest.raises(NotReleasable):
        flooding(STANDARD, 1_000_000, 10, 12, 30, largest_sum=1.0)


def test_a_sum_the_profile_cannot_hold_is_refused() -> None:
    with pytest.raises(CapacityExceeded):
        flooding(STANDARD, LENGTH, 10, 12, 30, largest_sum=1e4)


@pytest.mark.parametrize("bad", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_nothing_to_protect_is_a_mistake_of_the_program(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="count from one"):
        flooding(STANDARD, *bad)


def test_a_plan_says_all_that_the_noise_depends_on() -> None:
    plan = example_plan(aggregation__key_epoch_rounds=3, aggregation__flooding_bits=20)
    found = plan_flooding(plan, STANDARD)
    largest = 8.0 * sum(plan.weights.values())
    assert found == flooding(STANDARD, 14, 3, 3, 20, largest)
    assert plan_flooding(example_plan(study__rounds=2), STANDARD).decryptions == 2


def test_record_beside_results_is_complete_and_plain(noise: Flooding) -> None:
    record = noise.as_dict()
    assert json.loads(json.dumps(record)) == record
    assert record.pop("source") == SOURCE
    assert "2022/816" in SOURCE
    assert Flooding(**record) == noise  # type: ignore[arg-type]
    assert record == {
        "profile": "standard",
        "cohort_size": 10,
        "length": 5000,
        "decryptions": 12,
        "security_bits": 30,
        "largest_sum": STANDARD.largest_sum,
        "sigma": noise.sigma,
        "grid": noise.grid,
    }


def test_hospitals_agree_on_sigma_whatever_their_last_digits(noise: Flooding) -> None:
    steps = noise.sigma / noise.grid * 1024
    assert steps == int(steps)
    assert 1 <= noise.sigma / noise.grid <= 2
    assert math.log2(noise.grid) == int(math.log2(noise.grid))


# --- the release ------------------------------------------------------------------------------------------------------


def values(length: int = LENGTH) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(6).uniform(-1, 1, length)


def test_equal_inputs_give_equal_releases(noise: Flooding) -> None:
    first = sanitise(values(), noise, KEY, CONTEXT)
    assert first.shape == (LENGTH,)
    assert first.dtype == np.float64
    assert first.tobytes() == sanitise(values(), replace(noise), bytes(KEY), bytes(CONTEXT)).tobytes()


def test_golden_release() -> None:
    """Hospitals of different versions must add the same noise: this is a format."""
    noise = Flooding("standard", 3, 4, 2, 30, 10.0, 2.5, 2.0**-16)
    released = sanitise(np.array([1.0, 2.0, 3.0, 4.0]), noise, KEY, CONTEXT)
    # Made by hand from HMAC-SHA256, AES in ECB mode and erfinv to 50 digits.
    assert (released / noise.grid).tolist() == [-332487, 87902, -108327, 316825]


def test_release_is_the_sum_and_noise_on_the_grid(noise: Flooding) -> None:
    released = sanitise(values(), noise, KEY, CONTEXT)
    assert (released / noise.grid == np.rint(released / noise.grid)).all()
    assert not np.signbit(released[released == 0]).any()
    error = released - values()
    assert np.abs(error).max() <= noise.error_bound()
    # Rounding adds at most a twelfth to the variance.
    expected = math.sqrt(noise.sigma**2 + noise.grid**2 / 12)
    assert np.std(error) == pytest.approx(expected, rel=5 / math.sqrt(2 * LENGTH))
    assert np.std(error) < math.sqrt(13 / 12) * noise.sigma * (1 + 5 / math.sqrt(2 * LENGTH))


def test_what_differs_in_anything_gets_independent_noise(noise: Flooding) -> None:
    first = sanitise(np.zeros(LENGTH), noise, KEY, CONTEXT)
    others = [
        sanitise(np.zeros(LENGTH), noise, KEY, CONTEXT + b"2"),
        sanitise(np.zeros(LENGTH), noise, KEY[::-1], CONTEXT),
        # Two deviations on one stream would give away what they are added to, by a multiple of their difference.
        sanitise(np.zeros(LENGTH), replace(noise, sigma=2 * noise.sigma), KEY, CONTEXT),
        sanitise(np.zeros(LENGTH), replace(noise, decryptions=13), KEY, CONTEXT),
    ]
    for other in others:
        assert stats.pearsonr(first, other).pvalue > LEVEL
        assert stats.pearsonr(first**2, other**2).pvalue > LEVEL


def test_noise_is_gaussian_and_its_draws_are_independent() -> None:
    draws = _gaussians(KEY, 200_000)
    assert stats.kstest(draws, "norm").pvalue > LEVEL
    assert stats.kstest(np.abs(draws), "halfnorm").pvalue > LEVEL
    assert stats.pearsonr(draws[:-1], draws[1:]).pvalue > LEVEL
    assert stats.pearsonr(draws[:-1] ** 2, draws[1:] ** 2).pvalue > LEVEL
    assert 4 < np.abs(draws).max() < 6


def test_draws_are_the_inverse_of_aes_counter_mode() -> None:
    """One draw by hand: block, sign, 127 bits of probability, bisection of the distribution function."""
    from cryptography.hazmat.primitives.ciphers import Cipher as Aes
    from cryptography.hazmat.primitives.ciphers import algorithms, modes

    block = Aes(algorithms.AES(KEY), modes.ECB()).encryptor().update((5).to_bytes(16, "big"))
    high, low = (int.from_bytes(half, "little") for half in (block[:8], block[8:]))
    probability = ((high % 2**63) * 2**64 + low) / 2**128
    found = optimize.brentq(lambda x: stats.norm.cdf(x) - probability, -20, 0.1, xtol=1e-15)
    assert _gaussians(KEY, 6)[5] == pytest.approx(-found if high >> 63 else found, rel=1e-9)


def test_the_tail_reaches_beyond_what_is_ever_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def __init__(self, *_: object) -> None:
            pass

        def encryptor(self) -> Zeros:
            return self

        def update(self, data: bytes) -> bytes:
            return bytes(len(data) - 16) + b"\xff" * 16

    monkeypatch.setattr("secure_fedhelp.secagg.sanitise.Cipher", Zeros)
    lowest, middle = _gaussians(KEY, 2)
    assert stats.norm.logsf(-lowest) == pytest.approx(-129 * math.log(2), rel=1e-6)
    assert middle == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3000.0])
def test_a_sum_beyond_the_plan_is_not_released(noise: Flooding, bad: float) -> None:
    total = values()
    total[17] = bad
    with pytest.raises(NotReleasable, match="by the plan at most"):
        sanitise(total, noise, KEY, CONTEXT)


def test_the_range_is_judged_by_what_is_released_and_not_by_the_exact_sum(noise: Flooding) -> None:
    """Whoever can shift a sum would otherwise learn, from a refusal, on which side of the limit its noise fell."""
    limit = noise.largest_sum + noise.error_bound()
    shifted = np.zeros(LENGTH)
    draws = sanitise(shifted, noise, KEY, CONTEXT)
    up, down = int(np.argmax(draws)), int(np.argmin(draws))
    shifted[down] = limit + noise.sigma
    assert sanitise(shifted, noise, KEY, CONTEXT)[down] < limit
    shifted[down], shifted[up] = 0, limit - noise.sigma
    with pytest.raises(NotReleasable):
        sanitise(shifted, noise, KEY, CONTEXT)


@pytest.mark.parametrize(("key", "context"), [(b"short", CONTEXT), (KEY + b"1", CONTEXT), (KEY, b"")])
def test_a_wrong_key_or_no_context_is_a_mistake_of_the_program(noise: Flooding, key: bytes, context: bytes) -> None:
    with pytest.raises(ValueError, match="flooding key"):
        sanitise(values(), noise, key, context)


def test_another_length_is_a_mistake_of_the_program(noise: Flooding) -> None:
    with pytest.raises(ValueError, match="shape"):
        sanitise(values(LENGTH + 1), noise, KEY, CONTEXT)


def test_a_million_values_are_quick() -> None:
    noise = flooding(STANDARD, 1_000_000, 10, 12, 30)
    total = values(1_000_000)
    times = []
    for _ in range(3):
        begin = time.process_time()
        sanitise(total, noise, KEY, CONTEXT)
        times.append(time.process_time() - begin)
    assert min(times) < 0.6
