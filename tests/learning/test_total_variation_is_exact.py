"""The total variation step is the minimiser itself: by its optimality conditions, and against a solver of its dual."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from secure_fedhelp.learning.total_variation import prox_by_layer, total_variation_prox
from secure_fedhelp.study.channel import Vector

floats = st.floats(-100, 100, allow_nan=False, allow_subnormal=False)
vectors = st.one_of(
    st.lists(floats, min_size=1, max_size=40),
    st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=40),  # many ties
).map(np.array)
gammas = st.one_of(st.just(0.0), st.floats(1e-3, 300))


def cost(solved: Vector, values: Vector, gamma: float) -> float:
    """gamma ||Lambda D||_1 + 1/2 ||D - g||^2, written out."""
    jumps = sum(abs(solved[k + 1] - solved[k]) for k in range(len(solved) - 1))
    return gamma * jumps + 0.5 * sum((a - b) ** 2 for a, b in zip(solved, values, strict=True))


def assert_optimal(solved: Vector, values: Vector, gamma: float) -> None:
    """The KKT conditions, necessary and sufficient: c_k = sum_{i <= k} (D_i - g_i) is gamma times the sign of the
    jump after k, anything within +-gamma where there is none, and zero at the end."""
    sums, tolerance = np.cumsum(solved - values), 1e-9 * (1 + gamma + np.abs(values).sum())
    assert abs(sums[-1]) <= tolerance
    for k, jump in enumerate(np.diff(solved)):
        assert abs(sums[k]) <= gamma + tolerance
        if jump:
            assert abs(sums[k] - gamma * np.sign(jump)) <= tolerance


@given(vectors, gammas)
def test_the_optimality_conditions_hold(values: Vector, gamma: float) -> None:
    assert_optimal(total_variation_prox(values, gamma), values, gamma)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(np.array), st.floats(0.05, 5))
def test_it_agrees_with_a_solver_of_the_dual(values: Vector, gamma: float) -> None:
    """D = g - Lambda^T v with v the box-constrained least squares of the dual, by scipy's active sets."""
    difference = np.diff(np.eye(len(values)), axis=0)
    dual = lsq_linear(difference.T, values, bounds=(-gamma, gamma), method="bvls", tol=1e-14)
    found = total_variation_prox(values, gamma)
    np.testing.assert_allclose(found, values - difference.T @ dual.x, atol=1e-6)
    assert cost(found, values, gamma) <= cost(values - difference.T @ dual.x, values, gamma) + 1e-9


def test_the_ends_are_the_values_themselves_and_their_mean() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert np.array_equal(total_variation_prox(values, 0.0), values)
    np.testing.assert_allclose(total_variation_prox(values, 1e4), values.mean(), atol=1e-12)


def test_each_layer_is_solved_for_itself() -> None:
    values = np.array([1.0, 2.0, 3.0, 50.0, 40.0])
    found = prox_by_layer(values, [3, 2], 100.0)
    np.testing.assert_allclose(found, [2.0, 2.0, 2.0, 45.0, 45.0])


@pytest.mark.parametrize("shape", ["noise", "walk", "ramp", "saw"])
def test_a_hundred_thousand_values_take_linear_time(shape: str) -> None:
    """Ramps and growing saws are where direct methods go back again and again."""
    d, rng = 100_000, np.random.default_rng(2)
    values = {
        "noise": rng.normal(size=d),
        "walk": np.cumsum(rng.normal(size=d)),
        "ramp": np.linspace(0, 1000, d),
        "saw": np.where(np.arange(d) % 2, 1.0, -1.0) * np.arange(d) / d,
    }[shape]
    started = time.process_time()
    found = total_variation_prox(values, 3.0)
    assert time.process_time() - started < 5, "about 0.2 s on an idle core; quadratic would be an hour"
    assert_optimal(found, values, 3.0)
    assert len(np.unique(found)) < d
