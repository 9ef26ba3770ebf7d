"""Above 32 members: the graph's two numbers are the smallest that keep the stated bounds, and the bounds hold.

The sums are computed again with fractions, and compared with the enumeration of every graph of a few members and with
random graphs of some more. Honest members' own coins draw the graph, and nothing else has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import comb, inf, log2
from pathlib import Path
from random import Random, SystemRandom

import pytest
from masked import STUDY, Cohort, names
from scipy import stats

from secure_fedhelp.secagg.masked import graph as graphs
from secure_fedhelp.secagg.masked.graph import FAILURE_BITS, REPAIR_BITS, Graph, choose_holders, graph
from secure_fedhelp.secagg.masked.member import Member, Setting
from secure_fedhelp.secagg.masked.statements import SharesStatement, parse
from secure_fedhelp.study.threshold import active_coalition, threshold

GOLDEN = Path(__file__).with_name("golden_graph.txt")
SIZES = (*range(33, 121), 150, 200, 250, 300)


def table() -> str:
    """Members, threshold, coalition, neighbours, holders needed, failure bits."""
    lines = []
    for n in SIZES:
        g = graph("repairing", n)
        figures = (n, threshold("repairing", n), active_coalition("repairing", n), g.neighbours, g.holders_needed)
        lines.append(" ".join(map(str, figures)) + f" {g.failure_bits:.2f}\n")
    return "".join(lines)


def test_the_table_of_graphs() -> None:
    """Two releases that compute another graph would refuse each other's shares."""
    assert table() == GOLDEN.read_text()


def test_up_to_32_members_and_in_strict_everybody_is_a_neighbour() -> None:
    for n in range(2, 33):
        assert graph("repairing", n) == Graph(n, n, threshold("repairing", n), inf)
    for n in (3, 33, 100):
        assert graph("strict", n) == Graph(n, n, n, inf)
    assert not graph("repairing", 33).full


def test_if_no_sparse_graph_is_good_enough_it_is_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_holders_needed", lambda *_: None)
    assert graph.__wrapped__("repairing", 40) == Graph(40, 40, 27, inf)


# -- the sums, with fractions ------------------------------------------------------------------------------------------


def tail(population: int, marked: int, drawn: int, at_least: int) -> Fraction:
    """P[so many marked or more among the drawn], one number after another."""
    total = Fraction(0)
    for hit in range(at_least, drawn + 1):
        total += Fraction(comb(marked, hit) * comb(population - marked, drawn - hit), comb(population, drawn))
    return total


def apart(n: int, colluding: int, dropping: int, k: int) -> Fraction:
    """The expected number of ways to drop ``dropping`` honest members and find some of the others cut off."""
    honest, survivors, total = n - colluding, n - colluding - dropping, Fraction(0)
    for size in range(1, survivors // 2 + 1):
        rest = survivors - size
        ways = comb(honest, dropping) * comb(survivors, size)
        alone = Fraction(comb(n - 1 - rest, k), comb(n - 1, k)) ** size
        total += ways * alone * Fraction(comb(n - 1 - size, k), comb(n - 1, k)) ** rest
    return total


def keeps(n: int, k: int) -> tuple[int, Fraction] | None:
    """The smallest h with which k neighbours keep all three bounds, and the chance of failure; or None."""
    colluding, dropping = active_coalition("repairing", n), n - threshold("repairing", n)
    cut = apart(n, colluding, dropping, k)
    if cut > Fraction(1, 2**FAILURE_BITS):
        return None
    for h in range(1, k + 1):
        opened = n * tail(n - 1, colluding, k, h)
        if opened < Fraction(1, 2**FAILURE_BITS):
            lost = n * tail(n - 1, dropping, k, k - h + 1)
            right = lost <= Fraction(1, 2**REPAIR_BITS) and cut + opened <= Fraction(1, 2**FAILURE_BITS)
            return (h, cut + opened) if right else None
    return None


@pytest.mark.parametrize("n", [33, 34, 35, 40, 47, 64, 90, 120])
def test_the_numbers_are_the_smallest_that_keep_the_bounds(n: int) -> None:
    g = graph("repairing", n)
    found = keeps(n, g.neighbours)
    assert found is not None
    assert found[0] == g.holders_needed
    assert -log2(found[1]) == pytest.approx(g.failure_bits, abs=1e-6)
    assert g.failure_bits >= FAILURE_BITS
    for k in range(max(2, g.neighbours - 3), g.neighbours):
        assert keeps(n, k) is None


def test_large_graphs_keep_the_bounds() -> None:
    for n in (200, 300):
        g = graph("repairing", n)
        found = keeps(n, g.neighbours)
        assert found is not None
        assert (found[0], round(-log2(found[1]), 2)) == (g.holders_needed, round(g.failure_bits, 2))


# -- every graph of a few members --------------------------------------------------------------------------------------


def edges(holders: Sequence[Iterable[int]]) -> list[set[int]]:
    """Neighbours in either direction."""
    found: list[set[int]] = [set() for _ in holders]
    for one, drawn in enumerate(holders):
        for other in drawn:
            found[one].add(other)
            found[other].add(one)
    return found


def pieces_cut_off(neighbours: Sequence[set[int]], survivors: Sequence[int]) -> int:
    """How many sets of up to half the survivors have no mask with the rest."""
    return sum(
        not any(neighbours[one] & (set(survivors) - set(piece)) for one in piece)
        for size in range(1, len(survivors) // 2 + 1)
        for piece in combinations(survivors, size)
    )


@pytest.mark.parametrize(("colluding", "dropping"), [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0)])
def test_the_bound_is_the_exact_expectation_over_all_graphs_of_five(colluding: int, dropping: int) -> None:
    n, k = 5, 2
    honest = range(n - colluding)
    count = cut = disconnected = 0
    # What colluding members draw does not count: take one draw of theirs for all.
    draws = [list(combinations([m for m in range(n) if m != me], k)) for me in honest]
    for drawn in product(*draws):
        neighbours = edges([*drawn, *([()] * colluding)])
        ways = [
            pieces_cut_off(neighbours, [m for m in honest if m not in gone]) for gone in combinations(honest, dropping)
        ]
        count, cut, disconnected = count + 1, cut + sum(ways), disconnected + any(ways)
    expected = 2 ** graphs._log2_apart(n, colluding, dropping, k)
    assert expected == pytest.approx(cut / count)
    assert expected == pytest.approx(float(apart(n, colluding, dropping, k)))
    assert disconnected / count <= expected * (1 + 1e-9)


def test_the_tail_is_exact() -> None:
    for n, marked, k in [(6, 2, 3), (8, 3, 4), (9, 4, 4)]:
        draws = list(combinations(range(n), k))
        for at_least in range(1, k + 1):
            hits = sum(len(set(draw) & set(range(marked))) >= at_least for draw in draws)
            found = graphs._log2_tail(n, marked, k, at_least)
            assert 2**found == pytest.approx(hits / len(draws))
            assert tail(n, marked, k, at_least) == Fraction(hits, len(draws))


# -- random graphs, drawn as members draw them -------------------------------------------------------------------------


@cache
def drawn(n: int, k: int, seed: int) -> list[list[int]]:
    shape, everybody, random = Graph(n, k, 1, 0.0), names(n), Random(seed)
    return [[everybody.index(h) for h in choose_holders(shape, everybody, me, random)] for me in everybody]


@pytest.mark.parametrize(("n", "k", "colluding", "dropping"), [(12, 2, 2, 2), (12, 3, 2, 3), (14, 3, 3, 3)])
def test_whoever_is_dropped_on_sight_the_rest_stays_connected_as_often_as_stated(
    n: int, k: int, colluding: int, dropping: int
) -> None:
    """The adversary sees the graph and drops whom it likes: the event must occur, and not more often than the bound."""
    trials, bad = 600, 0
    honest = range(n - colluding)
    for trial in range(trials):
        neighbours = edges(drawn(n, k, trial))
        bad += any(
            not connected(neighbours, [m for m in honest if m not in gone]) for gone in combinations(honest, dropping)
        )
    bound = min(1.0, float(apart(n, colluding, dropping, k)))
    assert bad > 0
    assert stats.binomtest(bad, trials, bound, alternative="greater").pvalue > 1e-6
    assert bound < 30 * bad / trials  # and the bound is not absurd


def connected(neighbours: Sequence[set[int]], survivors: Sequence[int]) -> bool:
    left, seen = set(survivors), {survivors[0]}
    waiting = [survivors[0]]
    while waiting:
        found = (neighbours[waiting.pop()] & left) - seen
        seen |= found
        waiting += found
    return seen == left


def test_secrets_are_opened_and_lost_as_often_as_stated() -> None:
    """How many of a member's holders are on the coordinator's side, or leave: hypergeometric, in the drawn graphs."""
    n, k, marked, trials = 20, 8, 6, 100
    seen = [len(set(holders) & set(range(marked))) for seed in range(trials) for holders in drawn(n, k, seed)[marked:]]
    for at_least in (3, 4, 5):
        hits = sum(count >= at_least for count in seen)
        expected = float(tail(n - 1, marked, k, at_least))
        assert stats.binomtest(hits, len(seen), expected).pvalue > 1e-6


# -- whose coins -------------------------------------------------------------------------------------------------------


def holders_of(cohort: Cohort, seed: int, attempt: int = 0, round_number: int = 0) -> tuple[str, ...]:
    me = names(cohort.count)[0]
    setting = Setting(STUDY, "repairing", 2)
    member = Member(setting, round_number, me, cohort.signers[me], cohort.publics, draw=Random(seed))
    others = Cohort(cohort.count, signers=cohort.signers, round=round_number)
    keys = {name: m.key(attempt) for name, m in others.members.items() if name != me}
    keys[me] = member.key(attempt)
    return tuple(parse(SharesStatement, member.share(attempt, keys).signed.statement).records)


def test_a_members_own_coins_decide_who_holds_its_shares() -> None:
    """Nothing that a coordinator or the others choose enters: not their keys, nor the round or attempt."""
    cohort = Cohort(34)
    first = holders_of(cohort, seed=1)
    assert len(first) == graph("repairing", 34).neighbours
    assert names(34)[0] not in first
    assert holders_of(cohort, seed=1) == first
    assert holders_of(cohort, seed=1, attempt=5) == first
    assert holders_of(cohort, seed=1, round_number=3) == first
    assert holders_of(cohort, seed=2) != first


def test_unless_a_test_says_otherwise_the_coins_are_the_systems() -> None:
    member = Cohort(3).members[names(3)[0]]
    assert isinstance(member._draw, SystemRandom)


def test_the_order_in_which_members_are_listed_changes_nothing() -> None:
    shape, everybody = graph("repairing", 40), list(names(40))
    right = choose_holders(shape, everybody, everybody[5], Random(1))
    assert choose_holders(shape, everybody[::-1], everybody[5], Random(1)) == right
    assert choose_holders(shape, everybody + everybody, everybody[5], Random(1)) == right


def test_every_other_member_is_drawn_equally_often() -> None:
    shape, everybody, random = graph("repairing", 40), names(40), Random(3)
    counts = dict.fromkeys(everybody, 0)
    for _ in range(1000):
        for holder in choose_holders(shape, everybody, everybody[7], random):
            counts[holder] += 1
    assert counts.pop(everybody[7]) == 0
    # Draws of one sample exclude each other, which makes the statistic smaller than chi-square: by (n - k) / n.
    assert stats.chisquare(list(counts.values())).pvalue > 1e-6
    assert sum(counts.values()) == 1000 * shape.neighbours
