"""The noise is Gaussian, the coins have the right bias, calls are independent, and streams are never used twice."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from secure_fedhelp.privacy import noise
from secure_fedhelp.privacy.noise import NoiseSource, SeededNoise, SystemNoise

#: A test of a true null hypothesis fails with this probability; seeded streams make it never or always.
LEVEL = 1e-6


@pytest.fixture(params=["seeded", "system"])
def source(request: pytest.FixtureRequest) -> NoiseSource:
    return SeededNoise(b"a test") if request.param == "seeded" else SystemNoise()


def test_it_is_gaussian(source: NoiseSource) -> None:
    draws = source.normal(200_001, 2.5)
    assert draws.dtype == np.float64
    assert draws.shape == (200_001,)
    assert stats.kstest(draws / 2.5, "norm").pvalue > LEVEL


def test_its_moments_are_those_of_a_gaussian() -> None:
    draws, n = SeededNoise(b"moments").normal(1_000_000, 1.0), 1_000_000
    # Five standard errors of each sample moment.
    assert abs(draws.mean()) < 5 / math.sqrt(n)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs(stats.skew(draws)) < 5 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(draws)) < 5 * math.sqrt(24 / n)
    assert 4.2 < np.abs(draws).max() < 6.5


def test_halves_and_calls_are_independent() -> None:
    """Box-Muller makes its two halves from the same radius: they must still be independent, squares included."""
    source, n = SeededNoise(b"independence"), 200_000
    first, second = source.normal(n, 1.0), source.normal(n, 1.0)
    half = n // 2
    for a, b in [(first, second), (first[:half], first[half:]), (first[:-1], first[1:])]:
        for power in (1, 2):
            assert stats.pearsonr(a**power, b**power).pvalue > LEVEL


@pytest.mark.parametrize("bound", [1.0, 2.0, 3.0, 4.0, 4.5, 5.0])
def test_its_tails_are_neither_thin_nor_fat(bound: float) -> None:
    """A Gaussian that is right in the middle and wrong in its tails breaks delta, and no test of moments sees it."""
    n = 2_000_000
    draws = SeededNoise(b"tails").normal(n, 1.0)
    for beyond in (draws > bound, draws < -bound):
        low, high = stats.binom(n, stats.norm.sf(bound)).interval(1 - LEVEL)
        assert low <= np.count_nonzero(beyond) <= high


def test_it_is_gaussian_in_its_fine_structure() -> None:
    """What is left of each draw's quantile after its first 20 bits is uniform: no coarse grid, no missing values."""
    quantiles = stats.norm.cdf(SeededNoise(b"fine").normal(200_000, 1.0))
    assert stats.kstest((quantiles * 2**20) % 1.0, "uniform").pvalue > LEVEL
    assert len(np.unique(quantiles)) == len(quantiles)


def test_no_draw_depends_on_those_before() -> None:
    """Ljung and Box (1978) over 200 lags, of the draws and of their squares."""
    n, lags = 200_000, 200
    draws = SeededNoise(b"lags").normal(n, 1.0)
    for series in (draws, draws**2 - 1):
        series = series / series.std()
        correlations = np.asarray([series[lag:] @ series[:-lag] / n for lag in range(1, lags + 1)])
        statistic = n * (n + 2) * float((correlations**2 / (n - np.arange(1, lags + 1))).sum())
        assert stats.chi2(lags).sf(statistic) > LEVEL


def test_every_one_of_the_53_bits_is_a_fair_coin_of_its_own() -> None:
    n = 100_000
    integers = noise._KeyStream(bytes(32)).integers(n)
    assert integers.dtype == np.uint64
    bits = ((integers[:, None] >> np.arange(53, dtype=np.uint64)) & np.uint64(1)).astype(np.float64) * 2 - 1
    assert int(integers.max()) < 2**53
    assert np.abs(bits.sum(axis=0)).max() < 6 * math.sqrt(n), "53 coins, one false alarm in ten million"
    between = bits.T @ bits - n * np.eye(53)
    assert np.abs(between).max() < 6.5 * math.sqrt(n), "1,378 pairs, one false alarm in nine million"


def test_it_is_the_formula_of_box_and_muller() -> None:
    """In place and whole, against one number at a time from Python's own library."""

    class Given:
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.drawn = rng.integers(0, 2**53, 1000, dtype=np.uint64)
            self.drawn[[0, 1, 500, 501]] = [0, 2**53 - 1, 2**53 - 1, 0]

        def integers(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            assert count == 1000
            return self.drawn

    given = Given()
    found = noise._normal(given, 999, 3.0)  # type: ignore[arg-type]
    expected = []
    for turn in (math.cos, math.sin):
        for first, second in zip(given.drawn[:500].tolist(), given.drawn[500:].tolist(), strict=True):
            radius = math.sqrt(-2 * math.log((first + 1) / 2**53)) * 3.0
            expected.append(radius * turn(2 * math.pi * second / 2**53))
    np.testing.assert_allclose(found, expected[:999], rtol=1e-12, atol=1e-14)


def test_shapes_and_odd_sizes() -> None:
    source = SystemNoise()
    assert source.normal((3, 5), 1.0).shape == (3, 5)
    assert source.normal((), 1.0).shape == ()
    assert source.normal(0, 1.0).shape == (0,)
    assert source.normal((7, 0), 1.0).shape == (7, 0)
    assert (source.normal(9, 0.0) == 0).all()


@pytest.mark.parametrize("deviation", [-1.0, math.nan, math.inf])
def test_an_impossible_deviation_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        SystemNoise().normal(3, deviation)


def test_the_longest_tail_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    class AllZero:
        def integers(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            return np.zeros(count, dtype=np.uint64)

    draws = noise._normal(AllZero(), 2, 1.0)  # type: ignore[arg-type]
    assert draws[0] == pytest.approx(math.sqrt(2 * 53 * math.log(2)))
    assert np.isfinite(draws).all()


def test_integers_are_the_key_stream_of_aes() -> None:
    key = bytes(range(32))
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    stream = block.update(bytes(16)) + block.update((1).to_bytes(16, "big"))
    expected = [int.from_bytes(stream[i : i + 8], "little") >> 11 for i in range(0, 32, 8)]
    assert noise._KeyStream(key).integers(4).tolist() == expected


def test_it_is_uniform_and_never_one(source: NoiseSource) -> None:
    draws = source.uniform(200_000)
    assert draws.dtype == np.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > LEVEL


def test_the_largest_uniform_is_below_one() -> None:
    class AllOnes:
        def integers(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            return np.full(count, 2**53 - 1, dtype=np.uint64)

    assert noise._uniform(AllOnes(), 1)[0] == 1 - 2.0**-53  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.3, 0.9])
def test_coins_fall_at_their_rate(rate: float) -> None:
    count = 400_000
    drawn = int(SeededNoise(b"coins").poisson_mask(count, rate).sum())
    assert abs(drawn - count * rate) < 5 * math.sqrt(count * rate * (1 - rate))


def test_certain_coins() -> None:
    source = SystemNoise()
    assert source.poisson_mask(1000, 1.0).all()
    assert not source.poisson_mask(1000, 0.0).any()
    assert source.poisson_mask(0, 0.5).shape == (0,)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        SystemNoise().poisson_mask(3, rate)


def test_a_rate_is_never_rounded_up() -> None:
    class Fixed:
        def __init__(self, value: int) -> None:
            self.value = value

        def integers(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            return np.full(count, self.value, dtype=np.uint64)

    for rate in (0.5, 0.1, 1 / 3, 2.0**-53, 2.0**-54, 1 - 2.0**-53):
        threshold = math.floor(rate * 2**53)
        assert threshold / 2**53 <= rate
        assert not noise._coins(Fixed(threshold), 1, rate)[0]  # type: ignore[arg-type]
        if threshold:
            assert noise._coins(Fixed(threshold - 1), 1, rate)[0]  # type: ignore[arg-type]


def test_a_seed_gives_the_same_stream_again_and_only_that() -> None:
    one, two, other = SeededNoise(b"seed"), SeededNoise(b"seed"), SeededNoise(b"seee")
    first = one.normal(100, 1.0)
    assert np.array_equal(first, two.normal(100, 1.0))
    assert np.array_equal(one.poisson_mask(50, 0.5), two.poisson_mask(50, 0.5))
    assert not np.array_equal(first, one.normal(100, 1.0)), "a stream goes on, it is not begun again"
    assert not np.array_equal(first, other.normal(100, 1.0))


def test_system_noise_never_repeats() -> None:
    source = SystemNoise()
    draws = [source.normal(4, 1.0).tobytes() for _ in range(200)]
    draws += [
        copy.deepcopy(source).normal(4, 1.0).tobytes(),
        pickle.loads(pickle.dumps(source)).normal(4, 1.0).tobytes(),
    ]
    assert len(set(draws)) == len(draws)


def test_two_processes_after_a_fork_draw_different_noise() -> None:
    source = SystemNoise()
    source.normal(4, 1.0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, source.normal(4, 1.0).tobytes())
        os._exit(0)
    os.close(writer)
    theirs = os.read(reader, 100)
    os.close(reader)
    os.waitpid(child, 0)
    assert theirs != source.normal(4, 1.0).tobytes()


def test_the_ledger_can_tell_them_apart() -> None:
    assert SystemNoise().name == "system"
    assert SeededNoise(b"").name == "seeded-research"


def test_a_million_draws_are_quick() -> None:
    source = SystemNoise()
    source.normal(1000, 1.0)
    times = []
    for _ in range(3):
        begin = time.process_time()
        source.normal(1_000_000, 1.0)
        times.append(time.process_time() - begin)
    assert min(times) < 0.15


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise(b"uniform")], ids=["system", "seeded"])
def test_uniform_draws_fill_the_interval_evenly_and_never_reach_one(source: NoiseSource) -> None:
    drawn = source.uniform(100_000)
    assert 0 <= drawn.min() < 1e-3
    assert 1 - 1e-3 < drawn.max() < 1
    counts = np.bincount((drawn * 10).astype(int), minlength=10)
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 40, "nine degrees of freedom, one false alarm in 130,000"
    assert source.uniform(0).shape == (0,)
