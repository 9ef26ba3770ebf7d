"""The strongest attack on masked uploads that we know how to write: the coordinator's whole state and some hospitals'.

It knows every message the coordinator relayed in any number of attempts, including every share that was revealed to it,
and the stored states of the hospitals on its side. From these it collects shares, rebuilds what it has enough shares
of, computes every key it can, and takes those masks off the other hospitals' uploads. What is left over is a linear
system: each upload is a contribution plus or minus masks that nobody on its side knows. Every combination of uploads in
which those cancel is an element of a left null space, which is computed: so whatever can be opened by adding and
subtracting is found, also combinations nobody thought of.

It holds the study key by construction: residues stand for what that key opens.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from masked import Attempt, Cohort
from numpy.typing import NDArray
from scipy import stats

from secure_fedhelp.errors import SplitView
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.masked.roundkeys import RoundSecrets, pair_key, self_key
from secure_fedhelp.secagg.masked.shares import MASK, SELF, open_record, rebuild
from secure_fedhelp.secagg.masked.statements import (
    SURVIVORS_CONTEXT,
    Reveal,
    RoundKeyStatement,
    ShareRecord,
    SharesStatement,
    SurvivorsStatement,
    parse,
)
from secure_fedhelp.secagg.packing import Residues, add_modulo

#: The null space is taken modulo this prime: coefficients are small, so it is that of the integers.
_PRIME = 2**31 - 1


@dataclass(frozen=True)
class Seen:
    """One upload of an honest hospital: its residues, and the dealers the coordinator told it of."""

    attempt: int
    hospital: str
    residues: Residues
    dealers: frozenset[str]


@dataclass
class _Knowledge:
    """What it knows of one attempt."""

    attempt: Attempt
    statements: dict[str, SharesStatement]
    publics: dict[str, str]
    own: dict[str, RoundSecrets]
    shares: dict[tuple[str, str], dict[int, bytes]] = field(default_factory=dict)

    def secret(self, dealer: str, kind: str) -> bytes | None:
        """A secret that is its own or that it has enough shares of."""
        if dealer in self.own:
            return self.own[dealer].self_secret if kind == SELF else self.own[dealer].mask_secret
        shares, needed = self.shares.get((dealer, kind), {}), self.statements[dealer].needed
        return rebuild(shares, needed) if len(shares) >= needed else None

    def pair(self, one: str, other: str) -> bytes | None:
        for name, peer in ((one, other), (other, one)):
            secret = self.secret(name, MASK)
            if secret is not None:
                return pair_key(self.attempt.place, name, secret, peer, self.publics[peer])
        return None

    def paired(self, one: str, other: str) -> bool:
        return other in self.statements[one].records or one in self.statements[other].records


class Coalition:
    """A coordinator with the hospitals ``members`` on its side, against one cohort."""

    def __init__(self, cohort: Cohort, members: Collection[str]) -> None:
        self.cohort, self.members = cohort, frozenset(members)
        self._known: dict[int, _Knowledge] = {}
        self._seen: list[Seen] = []

    def observe(
        self,
        attempt: Attempt,
        reveals: Iterable[tuple[str, Reveal]] = (),
        shown: Mapping[str, Collection[str]] | None = None,
    ) -> Coalition:
        """Everything of one attempt. ``reveals`` are those beside ``attempt.reveals``; ``shown`` which dealers each
        hospital was told of, if not all were told of all."""
        known = _Knowledge(
            attempt,
            {name: parse(SharesStatement, d.signed.statement) for name, d in attempt.dealings.items()},
            {name: parse(RoundKeyStatement, k.statement).mask_key for name, k in attempt.keys.items()},
            {name: self._stolen(name, attempt) for name in self.members & attempt.keys.keys()},
        )
        for dealer, dealing in attempt.dealings.items():
            for holder in self.members & dealing.records.keys():
                record = parse(ShareRecord, dealing.records[holder])
                pair = open_record(known.own[holder], record)
                for kind, share in zip((SELF, MASK), pair, strict=True):
                    known.shares.setdefault((dealer, kind), {})[record.number] = share
        for holder, reveal in (*attempt.reveals.items(), *reveals):
            for kind, of in ((SELF, reveal.self_shares), (MASK, reveal.mask_shares)):
                for dealer, share in of.items():
                    number = 1 + sorted(attempt.dealings[dealer].records).index(holder)
                    known.shares.setdefault((dealer, kind), {})[number] = bytes.fromhex(share)
        self._known[attempt.number] = known
        for name, residues in attempt.uploads.items():
            if name not in self.members:
                dealers = frozenset(attempt.dealings) if shown is None else frozenset(shown[name])
                self._seen.append(Seen(attempt.number, name, residues, dealers))
        return self

    def _stolen(self, name: str, attempt: Attempt) -> RoundSecrets:
        """A hospital's secrets out of its stored state."""
        state = json.loads(self.cohort.members[name].to_bytes())
        assert state["attempt"] == attempt.number
        parts = (state["self_secret"], state["mask_secret"], state["share_private"])
        return RoundSecrets(attempt.place, name, *(bytes.fromhex(part) for part in parts))

    # -- the attack ---------------------------------------------------------------------------------------------------

    def stripped(self, seen: Seen) -> tuple[Residues, dict[tuple[int, str, str], int]]:
        """An upload with every known mask taken off, and the sign of each unknown one that is left in it."""
        known, me = self._known[seen.attempt], seen.hospital
        plus, minus, left = [], [], {}
        secret = known.secret(me, SELF)
        if secret is None:
            left[seen.attempt, me, me] = 1
        else:
            minus.append(self_key(known.attempt.place, me, secret))
        for other in seen.dealers - {me}:
            if not known.paired(me, other):
                continue
            key, low, high = known.pair(me, other), min(me, other), max(me, other)
            if key is None:
                left[seen.attempt, low, high] = 1 if me == low else -1
            else:
                (minus if me == low else plus).append(key)
        residues = seen.residues.copy()
        add_expanded(residues, self.cohort.profile, plus, minus)
        return residues, left

    def remainder(self, hospital: str, attempt: int = 0) -> Residues:
        """What is left of one hospital's upload."""
        found = next(s for s in self._seen if (s.hospital, s.attempt) == (hospital, attempt))
        return self.stripped(found)[0]

    def combinations(self) -> list[tuple[dict[tuple[int, str], int], Residues]]:
        """A basis of all sums and differences of the others' uploads that open: coefficient by (attempt, hospital),
        and what comes out. Only coefficients of -1, 0 and 1 can occur, up to scale, in a system of pairs."""
        bare = [self.stripped(seen) for seen in self._seen]
        unknown = sorted({mask for _, left in bare for mask in left})
        system = np.zeros((len(bare), len(unknown)), dtype=np.int64)
        for row, (_, left) in enumerate(bare):
            for mask, sign in left.items():
                system[row, unknown.index(mask)] = sign
        opened = []
        for vector in _left_null_space(system):
            moduli = self.cohort.profile.moduli_column()
            total = np.zeros_like(bare[0][0])
            which = {}
            for coefficient, seen, (residues, _) in zip(vector, self._seen, bare, strict=True):
                assert coefficient in (-1, 0, 1)
                if coefficient:
                    which[seen.attempt, seen.hospital] = coefficient
                    part = residues if coefficient == 1 else (moduli - residues) % moduli
                    add_modulo(total, part, moduli)
            opened.append((which, total))
        return opened

    def learned(self) -> list[tuple[dict[str, int], Residues]]:
        """What is learned of the contributions, the same in every attempt: coefficient by hospital, and value.

        A reduced basis, so that what two sums differ by stands alone.
        """
        moduli = self.cohort.profile.moduli_column().astype(object)
        names = sorted({seen.hospital for seen in self._seen})
        rows = []
        for which, total in self.combinations():
            coefficients = np.zeros(len(names), dtype=object)
            for (_, name), coefficient in which.items():
                coefficients[names.index(name)] += coefficient
            rows.append((coefficients, total.astype(object)))
        for column in range(len(names)):
            pivot = next((r for r in rows if abs(r[0][column]) == 1 and not r[0][:column].any()), None)
            if pivot is None:
                continue
            sign = pivot[0][column]
            rows = [
                (r[0] * sign, r[1] * sign) if r is pivot else
                (r[0] - sign * r[0][column] * pivot[0], r[1] - sign * r[0][column] * pivot[1])
                for r in rows
            ]  # fmt: skip
        return [
            (
                {name: int(c) for name, c in zip(names, coefficients, strict=True) if c},
                (value % moduli).astype(np.uint64),
            )
            for coefficients, value in rows
            if coefficients.any()
        ]

    def opened_alone(self) -> dict[str, Residues]:
        """The hospitals whose single contribution comes out, and what it is."""
        return {next(iter(which)): total for which, total in self.learned() if len(which) == 1 and 1 in which.values()}


def _left_null_space(system: NDArray[np.int64]) -> list[list[int]]:
    """A reduced basis of {x : x A = 0}, entries symmetric about 0."""
    rows = system.shape[0]
    reduced, pivots = _row_echelon(np.concatenate([system % _PRIME, np.eye(rows, dtype=np.int64)], axis=1))
    kernel = [reduced[row, system.shape[1] :] for row in range(rows) if pivots[row] >= system.shape[1]]
    if not kernel:
        return []
    basis, _ = _row_echelon(np.array(kernel))
    return [[int(x) if x <= _PRIME // 2 else int(x) - _PRIME for x in row] for row in basis]


def _row_echelon(matrix: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Reduced row echelon form modulo the prime, and each row's pivot column (all rows are independent)."""
    matrix, pivots = matrix.copy(), []
    for column in range(matrix.shape[1]):
        row = len(pivots)
        if row == matrix.shape[0]:
            break
        found = np.flatnonzero(matrix[row:, column])
        if not found.size:
            continue
        matrix[[row, row + found[0]]] = matrix[[row + found[0], row]]
        matrix[row] = matrix[row] * pow(int(matrix[row, column]), -1, _PRIME) % _PRIME
        factors = matrix[:, column].copy()
        factors[row] = 0
        for other in np.flatnonzero(factors):
            matrix[other] = (matrix[other] - factors[other] * matrix[row]) % _PRIME
        pivots.append(column)
    return matrix, pivots


# -- what a coordinator that lies can do besides -----------------------------------------------------------------------


def signed_by(attempt: Attempt, names: Collection[str], survivors: Mapping[str, str], view: str) -> dict[str, bytes]:
    """Signatures on any list, of hospitals that sign whatever they are asked to."""
    statement = SurvivorsStatement(
        study=attempt.place.study,
        round=attempt.place.round,
        attempt=attempt.place.attempt,
        members=tuple(sorted(attempt.keys)),
        survivors=dict(survivors),
        view=view,
    ).to_bytes()
    return {name: attempt.cohort.signers[name].sign(SURVIVORS_CONTEXT, statement) for name in names}


def revealed_for(
    attempt: Attempt, honest: Collection[str], colluding: Collection[str], survivors: Mapping[str, str], view: str
) -> list[tuple[str, Reveal]]:
    """What the ``honest`` reveal who are shown this list, with the signatures of the colluding hospitals beside theirs.

    Nothing of one that refuses.
    """
    signatures = signed_by(attempt, colluding, survivors, view)
    for name in honest:
        signatures[name] = attempt.cohort.members[name].agree(attempt.number, survivors, attempt.survivors[name])
    found = []
    for name in honest:
        try:
            found.append((name, parse(Reveal, attempt.cohort.members[name].reveal(attempt.number, signatures))))
        except SplitView:
            continue
    return found


# -- does it look uniform? ---------------------------------------------------------------------------------------------


def least_likely(residues: Residues, modulus: int, plain: Residues | None = None) -> float:
    """The smallest p-value of the tests that residues [N] are uniform below ``modulus`` and say nothing of ``plain``.

    Chi-square over 32 equal intervals, and over the classes modulo 2, 3, 5, 7 and 16; for the correlation with the
    contribution (both as signed numbers, also one place against the next) the exact test for independent normals, close
    enough at some hundred values.
    """
    values = residues.reshape(-1)
    found = [_chi_square(values // np.uint64(-(-modulus // 32)), 32)]
    found += [_chi_square(values % np.uint64(classes), classes) for classes in (2, 3, 5, 7, 16)]
    signed = _signed(values, modulus)
    found.append(float(stats.pearsonr(signed[1:], signed[:-1]).pvalue))
    if plain is not None:
        found.append(float(stats.pearsonr(signed, _signed(plain.reshape(-1), modulus)).pvalue))
    return min(found)


def _signed(values: Residues, modulus: int) -> NDArray[np.float64]:
    return values.astype(np.float64) - modulus * (values > modulus // 2)


def _chi_square(values: Residues, classes: int) -> float:
    """Classes are of equal size but for one value in ``modulus / classes``, far below what the test could see."""
    counts = np.bincount(values.astype(np.int64), minlength=classes)
    expected = values.size / classes
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), classes - 1))
