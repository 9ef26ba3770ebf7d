"""What ``plan privacy`` prints and writes: for each tier three tables within 80 columns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from secure_fedhelp.privacy.what_if import TierOutlook
    from secure_fedhelp.study.plan import StudyPlan

#: Rows of the table of rounds.
_MOST_ROWS = 12


def print_outlook(out: Console, plan: StudyPlan, tiers: Sequence[TierOutlook]) -> None:
    """All tiers; budgets that end before the study does, and exact counts, in red."""
    out.print(f"Study {plan.study.name} of {plan.consortium}, hash", markup=False)
    out.print(plan.hash, markup=False)
    for tier in tiers:
        _print_summary(out, plan, tier)
        out.print(_rounds(tier))
        out.print(_noise(tier))
        out.print(_changes(tier))
    out.print(
        "batch: patients expected in a step; signal: batch over noise multiplier, the most by which a step's sum of "
        "clipped gradients exceeds its noise. The number of patients is not in epsilon: the sampling rate is.",
        markup=False,
    )


def _print_summary(out: Console, plan: StudyPlan, tier: TierOutlook) -> None:
    from secure_fedhelp.audit.epsilon import shown

    p, rounds = tier.privacy, plan.study.rounds
    out.print(f"\nTier {tier.tier}, {tier.hospitals} hospital(s)", style="bold", markup=False)
    lines = [
        f"{tier.training_rounds} rounds of {p.steps} steps; sampling rate {p.sampling_rate:g}, noise multiplier "
        f"{p.noise_multiplier:g}.",
        *(f"Metrics in round {rounds}: Gaussian noise, multiplier {e.noise_multiplier:g}." for e in tier.others),
        f"Epsilon {shown(tier.spent)} of {p.epsilon:g} for a {p.unit} at delta {p.delta:g} after round {rounds}.",
    ]
    for line in lines:
        out.print(line, markup=False)
    if tier.affordable < rounds:
        out.print(f"THE BUDGET ENDS: these hospitals stop after round {tier.affordable} of {rounds}.", style="bold red")
    else:
        out.print(f"Training rounds that would still fit into the budget after the last: {tier.spare}.")
    if tier.exact:
        out.print(
            f"NO DIFFERENTIAL PRIVACY in round {rounds}: exact counts leave inside the opened sum, at no epsilon.",
            style="bold red",
        )


def _rounds(tier: TierOutlook) -> Table:
    from secure_fedhelp.audit.epsilon import shown

    table = _table("after round", "epsilon", "of the budget")
    last = len(tier.by_round)
    rows = sorted({max(1, round(last * k / _MOST_ROWS)) for k in range(_MOST_ROWS + 1)})
    for number in rows:
        spent = tier.by_round[number - 1]
        share = f"{100 * spent / tier.privacy.epsilon:.1f} %" if math.isfinite(spent) else "-"
        table.add_row(str(number), shown(spent), share)
    return table


def _noise(tier: TierOutlook) -> Table:
    table = _table("for a budget of", *(f"{n.budget:g}" for n in tier.noise))
    table.add_row("noise multiplier", *("none" if n.multiplier is None else f"{n.multiplier:g}" for n in tier.noise))
    return table


def _changes(tier: TierOutlook) -> Table:
    from secure_fedhelp.audit.epsilon import shown

    table = _table("if there were", "rounds", "rate", "epsilon", "batch", "signal")
    for c in tier.changes:
        cost = "-" if c.epsilon is None else shown(c.epsilon)
        table.add_row(c.what, str(c.rounds), f"{c.sampling_rate:g}", cost, _span(c.batch), _span(c.signal))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _span(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low}-{high}"


def write_outlook(path: Path, plan: StudyPlan, tiers: Sequence[TierOutlook]) -> None:
    """Every figure as JSON; an epsilon beyond all bounds is the word ``infinite``."""
    from secure_fedhelp.study.files import write_atomic

    rows = []
    for tier in tiers:
        row = asdict(tier) | {
            "privacy": tier.privacy.model_dump(mode="json"),
            "others": [event.model_dump(mode="json") for event in tier.others],
        }
        rows.append(row)
    text = json.dumps(_finite({"study": plan.hash, "tiers": rows}), indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return "infinite" if value == math.inf else value
