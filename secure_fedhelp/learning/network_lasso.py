"""The network lasso that ties personal parts together in pFedNet (Zhao, Liu, Liu, He; arXiv 2306.14483).

Hospitals are the nodes of a similarity graph, and each has a vector: u_i before the step, z_i after it.

    argmin_Z  1/2 sum_i ||z_i - u_i||^2  +  c sum over edges (i, j) of ||z_i - z_j||,     c = eta lambda

Norms and not their squares: similar hospitals become equal, unlike ones are hardly moved. Vectors are **rows** here,
[hospitals, values]; the paper writes them as columns and the answer as Z* = U A, which is Z* = A U in rows, A being
symmetric.

**A under encryption** *(ours)*. Where no two answers are equal the objective is smooth, and setting its gradient to
zero says

    (I + c L_w) Z* = U,    L_w the graph's Laplacian with weights w_ij = 1 / ||z*_i - z*_j||

so Z* = A U with A = (I + c L_w)^-1, which depends on U through distances alone. :func:`mixing` finds those weights by
iteratively reweighted least squares on *sketches* of where the u are expected by last round's, whose distances are
nearly the same. Whatever the weights, I + c L_w is a symmetric M-matrix that keeps the vector of ones: its inverse is
symmetric, has no negative entry, and its rows and columns add up to 1. So each z_i is a weighted mean of the cohort's
u_j, and the average of all hospitals' vectors stays what it is. What A from sketches of another round costs is
measured: :func:`gap` to the exact answer of :func:`exact_prox`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Rows are hospitals in the plan's order: float64 [hospitals, values].
Rows = NDArray[np.float64]
#: Pairs i < j, int64 [edges, 2], sorted.
Edges = NDArray[np.int64]

#: Distances below this share of the largest count as equal; and no edge's c / distance is above the second figure, so
#: that I + c L_w can be inverted in float64 with ten digits to spare.
_EQUAL, _STIFFEST = 1e-6, 1e8
_ITERATIONS = 200
_SKETCH = 6


def sketch_matrix(seed: int, values: int, sketch_values: int) -> NDArray[np.float64]:
    """Random signs over sqrt(sketch_values), [values, sketch_values], from a public seed.

    Sketches keep squared distances on average, each with a relative error of about sqrt(2 / sketch_values) (Achlioptas,
    *Database-friendly random projections*, 2003).
    """
    signs = np.random.default_rng([seed, _SKETCH]).integers(0, 2, size=(values, sketch_values))
    return np.asarray((2.0 * signs - 1.0) / np.sqrt(sketch_values))


def nearest_neighbours(points: Rows, k: int) -> Edges:
    """The graph in which each is joined to its ``k`` nearest (all others, if there are fewer), either way round.

    So every connected part has at least k + 1 members. Ties go to the earlier hospital.
    """
    distances = _distances(points)
    np.fill_diagonal(distances, -1.0)  # each first finds itself
    nearest = np.argsort(distances, axis=1, kind="stable")[:, 1 : k + 1]
    pairs = {(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row}
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def mixing(points: Rows, edges: Edges, weight: float) -> NDArray[np.float64]:
    """A, [hospitals, hospitals]: symmetric, doubly stochastic and non-negative, for certain; see the top of this file.

    ``points`` stand for U (sketches of it will do), ``weight`` is c. An inverse reaches along paths, so A_ij is zero
    only between hospitals of different connected parts.
    """
    mixed, found = points, np.eye(len(points))
    if not weight or not len(edges):
        return found
    for _ in range(_ITERATIONS):
        before = found
        found = _doubly_stochastic(np.linalg.inv(np.eye(len(points)) + _laplacian(mixed, edges, weight)))
        mixed = found @ points
        if np.abs(found - before).max() < 1e-10:
            break
    return found


@dataclass(frozen=True, eq=False)
class Solution:
    """``values`` [hospitals, values], whose objective is at most ``duality_gap`` above the least possible."""

    values: Rows
    duality_gap: float


def exact_prox(points: Rows, edges: Edges, weight: float, tolerance: float = 1e-9, steps: int = 5_000) -> Solution:
    """Z* by ADMM (Hallac, Leskovec, Boyd, *Network lasso*, KDD 2015): the server's step where nothing is encrypted.

    With D the differences along the edges (the paper's Q, transposed), W = D Z split off and Y its scaled dual:

        Z <- (I + rho D'D)^-1 (U + rho D'(W - Y)),   W <- block shrinkage of D Z + Y by c / rho,   Y <- Y + D Z - W

    It stops when the duality gap is at most ``tolerance`` times the objective's scale, so the answer brings its proof.
    """
    differences, scale = _differences(edges, len(points)), objective(points, points, edges, weight)
    if not scale:  # no coupling, no edge, or all equal along them: U itself costs nothing
        return Solution(points.copy(), 0.0)
    rho = 1.0
    solve = np.linalg.inv(np.eye(len(points)) + rho * differences.T @ differences)
    split = differences @ points
    dual = np.zeros_like(split)
    for _ in range(steps):
        solved = solve @ (points + rho * differences.T @ (split - dual))
        along = differences @ solved + dual
        norms = np.linalg.norm(along, axis=1, keepdims=True)
        split = along * np.maximum(0.0, 1.0 - weight / rho / np.maximum(norms, 1e-300))
        dual = along - split  # of norm at most c / rho
        # Any dual that is feasible gives a lower bound, and U - D'Y is the Z that belongs to it.
        pulled = rho * differences.T @ dual
        bound = float((points * pulled).sum() - 0.5 * (pulled**2).sum())
        best, above = min(
            ((z, objective(z, points, edges, weight) - bound) for z in (solved, points - pulled)), key=lambda c: c[1]
        )
        if above <= tolerance * scale:
            break
    return Solution(best, above)


def objective(values: Rows, points: Rows, edges: Edges, weight: float) -> float:
    """1/2 ||Z - U||^2 + c sum over edges of ||z_i - z_j||."""
    lengths = np.linalg.norm(values[edges[:, 0]] - values[edges[:, 1]], axis=1)
    return float(0.5 * ((values - points) ** 2).sum() + weight * lengths.sum())


@dataclass(frozen=True)
class Gap:
    """How far A U is from the exact answer Z*.

    ``distance``: ||A U - Z*|| / ||U - Z*||, 0 being exact and 1 as far off as doing nothing. ``excess``: the share of
    the objective's possible gain that was missed, 0 being all gained; above 1 is worse than nothing.
    """

    distance: float
    excess: float


def gap(mix: NDArray[np.float64], points: Rows, edges: Edges, weight: float) -> Gap:
    """The gap of one step, on plaintext ``points`` = U. Both figures are 0 where the exact step moves nothing."""
    exact, mixed = exact_prox(points, edges, weight).values, mix @ points
    least, start = (objective(z, points, edges, weight) for z in (exact, points))
    reached, moved = objective(mixed, points, edges, weight), float(np.linalg.norm(points - exact))
    if moved == 0.0 or start <= least:
        return Gap(0.0, 0.0)
    return Gap(float(np.linalg.norm(mixed - exact)) / moved, (reached - least) / (start - least))


def _distances(points: Rows) -> NDArray[np.float64]:
    """Euclidean distances of all pairs, from differences: exact zeros for equal points."""
    return np.stack([np.sqrt(((points - row) ** 2).sum(axis=1)) for row in points])


def _differences(edges: Edges, hospitals: int) -> NDArray[np.float64]:
    """D, [edges, hospitals]: row e is e_i - e_j."""
    found = np.zeros((len(edges), hospitals))
    found[np.arange(len(edges)), edges[:, 0]] = 1.0
    found[np.arange(len(edges)), edges[:, 1]] = -1.0
    return found


def _laplacian(points: Rows, edges: Edges, weight: float) -> NDArray[np.float64]:
    """c L_w with w = 1 / distance."""
    lengths = np.sqrt(((points[edges[:, 0]] - points[edges[:, 1]]) ** 2).sum(axis=1))
    stiffness = weight / np.maximum(lengths, max(_EQUAL * float(lengths.max()), weight / _STIFFEST))
    differences = _differences(edges, len(points))
    return np.asarray(differences.T @ (stiffness[:, None] * differences))


def _doubly_stochastic(inverse: NDArray[np.floating]) -> NDArray[np.float64]:
    """The inverse without its rounding: symmetric and non-negative to the bit, rows adding up to 1.

    The diagonal takes what the others leave. That is no less than 1 / n: a row's diagonal entry is its largest.
    """
    clean = np.maximum((inverse + inverse.T) / 2, 0.0)
    np.fill_diagonal(clean, 0.0)
    np.fill_diagonal(clean, 1.0 - clean.sum(axis=1))
    return np.asarray(clean)
