"""Fourier aggregation against loops written from its definition, and what an upload must not hold."""

from __future__ import annotations

import cmath
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.learning.methods.prr import parts
from secure_fedhelp.learning.models import build
from secure_fedhelp.learning.spectrum import Box, Fourier, Part, band

Aggregation = Literal["complex", "amplitude", "phase"]
Array = NDArray[np.float64]
Spectrum = dict[tuple[int, int], complex]

shapes = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
)
widths = st.one_of(st.just(1.0), st.floats(0.05, 1.0))
seeds = st.integers(0, 2**32 - 1)
aggregations: list[Aggregation] = ["complex", "amplitude", "phase"]


# --- the reference: sums and loops, no FFT, no shared code ------------------------------------------------------------


def as_matrix(weight: Array) -> list[list[float]]:
    if weight.ndim == 2:
        return [[float(x) for x in row] for row in weight]
    outputs, inputs, a, b = weight.shape
    matrix = [[0.0] * (b * outputs) for _ in range(inputs * a)]
    for o in range(outputs):
        for i in range(inputs):
            for y in range(a):
                for x in range(b):
                    matrix[i * a + y][x * outputs + o] = float(weight[o, i, y, x])
    return matrix


def frequencies(size: int) -> list[int]:
    """Signed, centred: -2 -1 0 1 for four, -2 .. 2 for five."""
    return list(range(-(size // 2), (size + 1) // 2))


def transform(matrix: list[list[float]]) -> Spectrum:
    rows, columns = len(matrix), len(matrix[0])
    found = {}
    for u in frequencies(rows):
        for v in frequencies(columns):
            total = sum(
                matrix[r][c] * cmath.exp(-2j * math.pi * (u * r / rows + v * c / columns))
                for r in range(rows)
                for c in range(columns)
            )
            own_conjugate = (2 * u) % rows == 0 and (2 * v) % columns == 0
            found[u, v] = complex(total.real) if own_conjugate else total
    return found


def inverse(spectrum: Spectrum, rows: int, columns: int) -> list[list[complex]]:
    return [
        [
            sum(f * cmath.exp(2j * math.pi * (u * r / rows + v * c / columns)) for (u, v), f in spectrum.items())
            / (rows * columns)
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def in_box(u: int, v: int, rows: int, columns: int, width: float) -> bool:
    return abs(u) <= math.floor(rows * width / 2) and abs(v) <= math.floor(columns * width / 2)


def expected(weights: list[Array], own: Array, width: float, aggregation: str) -> tuple[Array, float]:
    """The matrix that a hospital with ``own`` ends up with, and the largest imaginary part of the inverse."""
    spectra, mixed = [transform(as_matrix(w)) for w in weights], transform(as_matrix(own))
    rows, columns = len(as_matrix(own)), len(as_matrix(own)[0])
    for u, v in mixed:
        if not in_box(u, v, rows, columns, width):
            continue
        all_of_them = [s[u, v] for s in spectra]
        if aggregation == "complex":
            mixed[u, v] = sum(all_of_them) / len(all_of_them)
            continue
        amplitude = sum(abs(f) for f in all_of_them) / len(all_of_them)
        phase = cmath.phase(mixed[u, v])
        if aggregation == "phase":
            phase = sum(cmath.phase(f) for f in all_of_them) / len(all_of_them)
        mixed[u, v] = amplitude * cmath.exp(1j * phase)
        if (2 * u) % rows == 0 and (2 * v) % columns == 0:
            mixed[u, v] = complex(mixed[u, v].real)
    result = inverse(mixed, rows, columns)
    return np.array([[x.real for x in row] for row in result]), max(abs(x.imag) for row in result for x in row)


def cohort(shape: tuple[int, ...], seed: int, hospitals: int = 3) -> tuple[list[Array], Array]:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=shape)
    return [base + 0.5 * rng.normal(size=shape) for _ in range(hospitals)], base


# --- the algebra ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", aggregations)
@given(shape=shapes, width=widths, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_a_round_is_the_definition(aggregation: Aggregation, shape: tuple[int, ...], width: float, seed: int) -> None:
    weights, base = cohort(shape, seed)
    fourier = Fourier([Part(shape, "spectrum")], aggregation)
    mean = np.mean([fourier.pack(w.ravel(), base.ravel(), width) for w in weights], axis=0)
    assert len(mean) == fourier.length(width)
    found = fourier.recombine(weights[0].ravel(), base.ravel(), mean, width).reshape(shape)
    wanted, imaginary = expected(weights, weights[0], width, aggregation)
    assert imaginary < 1e-9, "the box holds with each coefficient its conjugate"
    np.testing.assert_allclose(as_matrix(found), wanted, atol=1e-9)


@given(shape=shapes, width=widths, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_lengths_count_the_boxs_real_numbers(shape: tuple[int, ...], width: float, seed: int) -> None:
    matrix = as_matrix(np.zeros(shape))
    rows, columns = len(matrix), len(matrix[0])
    inside = [(u, v) for u in frequencies(rows) for v in frequencies(columns) if in_box(u, v, rows, columns, width)]
    pairs = {frozenset([(u % rows, v % columns), (-u % rows, -v % columns)]) for u, v in inside}
    counts = {"complex": sum(len(pair) for pair in pairs), "amplitude": len(pairs), "phase": 2 * len(pairs)}
    weights, base = cohort(shape, seed, 1)
    for aggregation in aggregations:
        fourier = Fourier([Part(shape, "spectrum")], aggregation)
        assert fourier.length(width) == counts[aggregation]
        assert len(fourier.pack(weights[0].ravel(), base.ravel(), width)) == counts[aggregation]
    box = Box.of((rows, columns), width)
    assert len(box.first) == len(pairs)
    assert set(map(frozenset, zip(box.first.tolist(), box.second.tolist(), strict=True))) == {
        frozenset(u * columns + v for u, v in pair) for pair in pairs
    }


@given(shape=shapes, width=widths, seed=seeds)
@settings(max_examples=50, deadline=None)
def test_complex_uploads_are_linear_and_no_longer_than_the_update(
    shape: tuple[int, ...], width: float, seed: int
) -> None:
    """So what was white noise stays white noise, of the same deviation, and a bound on updates is one on uploads."""
    (one, two), base = cohort(shape, seed, 2)
    fourier, zero = Fourier([Part(shape, "spectrum")], "complex"), np.zeros(base.size)

    def pack(values: Array) -> Array:
        return fourier.pack(values.ravel(), zero, width)

    np.testing.assert_allclose(pack(one + 3 * two), pack(one) + 3 * pack(two), atol=1e-9)
    np.testing.assert_allclose(fourier.pack(one.ravel(), base.ravel(), width), pack(one - base), atol=1e-9)
    rebuilt = fourier.recombine(zero, zero, pack(one), width)
    assert np.linalg.norm(pack(one)) == pytest.approx(np.linalg.norm(rebuilt), abs=1e-9)
    assert np.linalg.norm(pack(one)) <= np.linalg.norm(one) + 1e-9
    if width == 1.0:
        assert np.linalg.norm(pack(one)) == pytest.approx(np.linalg.norm(one))


def test_a_whole_band_is_federated_averaging_but_for_normalisation() -> None:
    model = build("cnn-4-8", (1, 8, 8), 3, seed=0)
    kinds = parts(model)
    rng = np.random.default_rng(1)
    size = sum(part.size for part in kinds)
    models, base = [rng.normal(size=size) for _ in range(3)], rng.normal(size=size)
    fourier = Fourier(kinds, "complex")
    mean = np.mean([fourier.pack(values, base, 1.0) for values in models], axis=0)
    local = np.concatenate([np.full(part.size, part.kind == "local") for part in kinds])
    found = fourier.recombine(models[0], base, mean, 1.0)
    np.testing.assert_allclose(found[~local], np.mean(models, axis=0)[~local], atol=1e-12)
    np.testing.assert_array_equal(found[local], models[0][local])
    assert len(mean) == np.count_nonzero(~local)
    assert np.count_nonzero(local) == 2 * (4 + 8), "two GroupNorms of scale and shift"


def test_high_frequencies_and_normalisation_layers_are_in_no_upload() -> None:
    kinds = parts(build("cnn-4-8", (1, 8, 8), 3, seed=0))
    rng = np.random.default_rng(2)
    own, base, other = (rng.normal(size=sum(part.size for part in kinds)) for _ in range(3))
    for aggregation in aggregations:
        fourier = Fourier(kinds, aggregation)
        said = fourier.pack(own, base, 0.7)
        stranger = Fourier(kinds, "complex").recombine(other, base, Fourier(kinds, "complex").pack(own, base, 0.7), 0.7)
        assert np.abs(stranger - own).max() > 0.1, "what is not shared differs"
        np.testing.assert_allclose(fourier.pack(stranger, base, 0.7), said, atol=1e-9)


def test_bytes_fall_with_the_square_of_the_band() -> None:
    shape = (96, 64, 3, 3)
    size = math.prod(shape)
    for width in (0.7, 0.8, 0.95):
        length = {a: Fourier([Part(shape, "spectrum")], a).length(width) for a in aggregations}
        assert length["complex"] == pytest.approx(width**2 * size, rel=0.02)
        assert length["amplitude"] == pytest.approx(width**2 * size / 2, rel=0.02)
        assert length["phase"] == pytest.approx(width**2 * size, rel=0.02)


def test_the_arithmetic_phase_mean_breaks_at_pi_and_the_complex_mean_does_not() -> None:
    """Two models a little apart: their mean is to be between them."""
    rng = np.random.default_rng(3)
    one = rng.normal(size=(40, 30))
    two = one + 0.02 * rng.normal(size=one.shape)
    base, apart, moved = np.zeros(one.size), float(np.linalg.norm(one - two)), {}
    for aggregation in aggregations:
        fourier = Fourier([Part(one.shape, "spectrum")], aggregation)
        mean = np.mean([fourier.pack(w.ravel(), base, 0.9) for w in (one, two)], axis=0)
        moved[aggregation] = float(np.linalg.norm(fourier.recombine(one.ravel(), base, mean, 0.9) - one.ravel()))
    assert moved["complex"] <= apart / 2
    assert moved["amplitude"] <= apart
    assert moved["phase"] > 3 * apart, "phases on both sides of pi average to the opposite direction"


def test_negative_real_coefficients_keep_their_sign() -> None:
    """Rounding leaves them imaginary parts of either sign: phases of pi and -pi, whose mean would be the opposite."""
    rng = np.random.default_rng(5)
    for shape in [(8, 6), (12, 10), (33, 26), (14, 20)]:
        one = rng.normal(size=shape) - 1
        models = [one * (1 + step / 1000) for step in range(-3, 4)]
        fourier, base = Fourier([Part(shape, "spectrum")], "phase"), rng.normal(size=one.size)
        mean = np.mean([fourier.pack(model.ravel(), base, 1.0) for model in models], axis=0)
        np.testing.assert_allclose(fourier.recombine(models[0].ravel(), base, mean, 1.0), one.ravel(), atol=1e-9)


def test_an_amplitude_never_falls_below_zero() -> None:
    """Clipping and the noise of sanitised sums can carry a mean there, and it would turn the phase round."""
    rng = np.random.default_rng(6)
    own, base = rng.normal(size=48), rng.normal(size=48)
    fourier = Fourier([Part((6, 8), "spectrum")], "amplitude")
    found = fourier.recombine(own, base, np.full(fourier.length(1.0), -100.0), 1.0)
    np.testing.assert_allclose(found, 0, atol=1e-9)


def test_phases_are_sent_in_turns_and_fit_any_bound_from_one_on() -> None:
    rng = np.random.default_rng(4)
    fourier = Fourier([Part((20, 20), "spectrum")], "phase")
    said = fourier.pack(rng.normal(size=400), rng.normal(size=400), 0.8)
    turns = said[len(said) // 2 :]
    assert 0.5 < np.abs(turns).max() < 1


def test_the_band_grows_in_a_straight_line() -> None:
    assert [band(number, 6, 0.7, 0.95) for number in range(6)] == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    assert band(0, 1, 0.7, 0.95) == 0.7


def test_a_weight_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="2, 3, 4"):
        Fourier([Part((2, 3, 4), "spectrum")], "complex")
