"""The report's charts, from its content alone. Each has a table on the page that says the same."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from secure_fedhelp.audit.report.layout import FIGURES, drawn
from secure_fedhelp.audit.report.model import AuditReport, Budget
from secure_fedhelp.audit.report.words import few, listed, ranges
from secure_fedhelp.pages import charts, numbers

#: States of a hospital in a round, as the grid chart draws them.
_IN, _DECLINED, _ABSENT = 0, 1, 2
_STATES = (("in the sum", "shared bar"), ("declined", "own open"), ("not heard", "rival hollow"))


@dataclass(frozen=True)
class Figure:
    """One numbered figure: a caption, and one chart or several, each under a heading of its own."""

    number: int
    title: str
    caption: str
    charts: tuple[tuple[str, Markup], ...]


def figures(report: AuditReport) -> dict[str, Figure]:
    """Those that there are data for, by the keys of :data:`layout.FIGURES`."""
    makers = {"rounds": _rounds, "curve": _curve, "accountants": _accountants, "canaries": _canaries}
    there = drawn(report.participants, report.budgets, report.empirical)
    return {key: makers[key](report) for key in FIGURES if key in there}


def _rounds(report: AuditReport) -> Figure:
    hospitals = [p for p in report.participants if p.role == "hospital"]
    many = report.study.rounds_published or 0 if report.study else 0
    rows, said = [], []
    for one in hospitals:
        states = dict.fromkeys(one.taken_part, _IN) | dict.fromkeys(one.declined, _DECLINED)
        states |= dict.fromkeys(one.absent, _ABSENT)
        rows.append((one.name, [states.get(r) for r in range(many)]))
        words = [
            f"{what} {ranges(of)}"
            for what, of in (
                ("in the sum of", one.taken_part),
                ("declined", one.declined),
                ("not heard in", one.absent),
            )
            if of
        ]
        said.append(f"{one.name}: {', '.join(words) or 'in no round'}")
    chart = charts.grid_chart("chart-rounds", "Who was in each round's sum", "; ".join(said), "round", _STATES, rows)
    caption = "Who was in each published round's sum. An empty place: it had left the study before."
    return Figure(FIGURES["rounds"], "Participation", caption, (("", chart),))


def _curve(report: AuditReport) -> Figure:
    """One panel for all hospitals with the same curve and budget, on one common scale."""
    groups: dict[tuple[object, ...], list[Budget]] = {}
    for budget in report.budgets:
        if budget.curve:
            groups.setdefault((budget.curve, budget.claimed), []).append(budget)
    highest = max(max(b.claimed, *(p.epsilon for p in b.curve)) for (b, *_) in groups.values())
    last = max(p.round for (b, *_) in groups.values() for p in b.curve) + 1
    panels = []
    for number, of in enumerate(groups.values(), start=1):
        first, names = of[0], listed([b.hospital for b in of])
        points = tuple((float(p.round + 1), p.epsilon) for p in first.curve)
        said = ", ".join(f"round {x:g} {numbers.epsilon(y)}" for x, y in points)
        panels.append(
            (
                names,
                charts.line_chart(
                    f"chart-curve-{number}",
                    f"Epsilon by round of {names}",
                    f"{said}; budget {numbers.epsilon(first.claimed)}",
                    [charts.Line(f"spent {_epsilon(first.pld)}", points, "shared")],
                    [charts.Level(f"budget {numbers.epsilon(first.claimed)}", first.claimed)],
                    floor=0.0,
                    least_span=highest,
                    last=last,
                ),
            )
        )
    caption = "Epsilon of each patient after each round, recomputed from the ledgers, under the plan's budget (dashed)."
    return Figure(FIGURES["curve"], "Budget by round", caption, tuple(panels))


def _accountants(report: AuditReport) -> Figure:
    series = (("PLD, of record", "shared bar"), ("RDP, beside it", "shared bar hollow"), ("budget", "rival bar"))
    groups: dict[tuple[float | None, ...], list[str]] = {}
    for b in report.budgets:
        groups.setdefault((b.pld, b.rdp, b.claimed), []).append(b.hospital)
    rows = [charts.Row(few(names), values) for values, names in groups.items()]
    said = "; ".join(
        f"{b.hospital}: PLD {_epsilon(b.pld)}, RDP {_epsilon(b.rdp)}, budget {_epsilon(b.claimed)}"
        for b in report.budgets
    )
    chart = charts.bar_chart("chart-accountants", "Epsilon by two accountants", said, series, rows, numbers.epsilon)
    caption = (
        "Epsilon by both accountants. RDP is a looser bound of the same thing and may exceed a budget that is kept."
    )
    return Figure(FIGURES["accountants"], "Two accountants", caption, (("", chart),))


def _canaries(report: AuditReport) -> Figure:
    series = (("claimed", "rival bar"), ("at least", "own bar"), ("assuming nothing", "own bar hollow"))
    rows, said = [], []
    for one in report.empirical.measurements:
        if one.planted is not None:  # caught or not: in the table; its bound would dwarf the others
            continue
        label = f"{one.kind}, {one.figures}"
        rows.append(charts.Row(label, (one.claimed, one.lower_bound, one.assumption_free_bound)))
        bounds = f"at least {one.lower_bound:.2f}, assuming nothing {one.assumption_free_bound:.2f}"
        said.append(f"{label}: claimed {one.claimed:.2f}, {bounds}")
    chart = charts.bar_chart(
        "chart-canaries", "Claimed epsilon and empirical bound", "; ".join(said), series, rows, "{:.2f}".format
    )
    caption = (
        "Claimed epsilon of one attacked training, and what canaries show it to be at least. A bound that reaches "
        "the claim refutes it."
    )
    return Figure(FIGURES["canaries"], "Claimed against measured", caption, (("", chart),))


def _epsilon(value: float | None) -> str:
    return "not known" if value is None else numbers.epsilon(value)
