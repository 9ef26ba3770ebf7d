"""Who holds whose shares: everybody up to 32 members, k random neighbours above (after Bell et al., CCS 2020).

In the sparse graph each hospital draws its own k neighbours at random once the members are known, shares its secrets
among them with threshold h, and has a pair mask with each neighbour in either direction. Its own coins decide, so a
coordinator with hospitals on its side cannot search for a graph that isolates it.

k is the smallest number for which, of n members with c colluding and up to d = n - t dropping out:

* *privacy of a secret*: none of the honest has h or more colluders among its k neighbours (hypergeometric tail);
* *repair*: of any member's neighbours h stay, if who drops out has nothing to do with the graph (likewise);
* *connection*: the honest survivors stay connected by masks even if the d are chosen by somebody who sees the graph:
  else the sum of each component would come out by itself. A component S of s honest survivors and the r others, all
  further honest ones dropped, are apart if no one of S drew one of the r and none of the r drew one of S:
  P = (C(n-1-r, k) / C(n-1, k))^s (C(n-1-s, k) / C(n-1, k))^r for one choice; summed over all choices of S and of the
  dropped, s up to half of the survivors.

Privacy and connection fail with probability at most 2^-FAILURE_BITS an attempt, which is 2^-40 a round: a coordinator
sees each attempt's graph and may let it fail, up to 64 times (member.py). Repair fails with at most 2^-REPAIR_BITS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from secure_fedhelp.study.threshold import Masks, active_coalition, sparse, threshold

FAILURE_BITS: Final = 46
REPAIR_BITS: Final = 30


@dataclass(frozen=True)
class Graph:
    """The shape of one attempt's graph: ``neighbours`` = k that hold a member's shares (itself included if the graph
    is full), ``holders_needed`` = h of them to rebuild a secret, ``failure_bits`` = -log2 of the failure probability
    (infinite for the full graph, where nothing is left to chance)."""

    members: int
    neighbours: int
    holders_needed: int
    failure_bits: float

    @property
    def full(self) -> bool:
        return self.neighbours == self.members


@cache
def graph(masks: Masks, members: int) -> Graph:
    """The graph for an attempt of ``members`` hospitals."""
    if not sparse(masks, members):
        return Graph(members, members, threshold(masks, members), math.inf)
    colluding, dropping = active_coalition(masks, members), members - threshold(masks, members)
    for neighbours in range(2, members - 1):
        apart = _log2_apart(members, colluding, dropping, neighbours)
        if apart > -FAILURE_BITS:
            continue
        found = _holders_needed(members, colluding, dropping, neighbours)
        if found is not None and _log2_sum([apart, found[1]]) <= -FAILURE_BITS:
            return Graph(members, neighbours, found[0], -_log2_sum([apart, found[1]]))
    return Graph(members, members, threshold(masks, members), math.inf)


def choose_holders(shape: Graph, members: Sequence[str], me: str, random: Random) -> tuple[str, ...]:
    """Who gets this member's shares, sorted. ``random`` must be the system's (SystemRandom): see the top."""
    if shape.full:
        return tuple(sorted(members))
    others = sorted(set(members) - {me})
    return tuple(sorted(random.sample(others, shape.neighbours)))


def _holders_needed(members: int, colluding: int, dropping: int, neighbours: int) -> tuple[int, float] | None:
    """The smallest h that keeps every secret, with log2 of the chance that it does not; None if repair then fails."""
    for needed in range(1, neighbours + 1):
        open_ = math.log2(members) + _log2_tail(members - 1, colluding, neighbours, needed)
        if open_ < -FAILURE_BITS:
            lost = math.log2(members) + _log2_tail(members - 1, dropping, neighbours, neighbours - needed + 1)
            return (needed, open_) if lost <= -REPAIR_BITS else None
    return None


def _log2_tail(population: int, marked: int, drawn: int, at_least: int) -> float:
    """log2 P[at least so many marked among the drawn], drawn without replacement."""
    ways = sum(
        math.comb(marked, i) * math.comb(population - marked, drawn - i)
        for i in range(at_least, min(marked, drawn) + 1)
    )
    return _log2(ways) - _log2(math.comb(population, drawn))


def _log2_apart(members: int, colluding: int, dropping: int, neighbours: int) -> float:
    """log2 of the bound on the chance that the honest survivors fall apart, whoever is dropped (see the top)."""
    honest, others = members - colluding, members - 1
    survivors, draws = honest - dropping, _log2(math.comb(others, neighbours))

    def avoided(number: int) -> float:
        """One member draws none of ``number`` others."""
        return _log2(math.comb(others - number, neighbours)) - draws

    return _log2_sum(
        [
            _log2(math.comb(honest, size) * math.comb(honest - size, dropping))
            + size * avoided(survivors - size)
            + (survivors - size) * avoided(size)
            for size in range(1, survivors // 2 + 1)
        ]
    )


def _log2(value: int) -> float:
    return math.log2(value) if value else -math.inf


def _log2_sum(logs: Sequence[float]) -> float:
    """log2 of the sum of 2^x over ``logs``."""
    largest = max(logs)
    if largest == -math.inf:
        return largest
    return largest + math.log2(sum(2.0 ** (x - largest) for x in logs))
