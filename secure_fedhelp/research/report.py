"""``report.html``: one self-contained page for somebody who has to judge a study, not to run it.

No script, no font, no picture from elsewhere; the page's own content security policy forbids them. All values are
escaped by Jinja2 or :mod:`markupsafe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from markupsafe import Markup

from secure_fedhelp import __version__
from secure_fedhelp.pages import charts, numbers
from secure_fedhelp.pages.html import environment
from secure_fedhelp.research import wording
from secure_fedhelp.research.summary import HospitalSummary, RoundSummary, Summary
from secure_fedhelp.study.files import write_atomic

_SHAPES = {
    "local_only": (charts.circle, "rival open"),
    "local_non_private": (charts.square, "rival open"),
    "study_model": (charts.diamond, "shared filled"),
    "personal_model": (charts.circle, "own filled"),
}


def write_report(summary: Summary, path: Path) -> None:
    """Write the report of a finished study; raises StorageError."""
    write_atomic(path, render(summary).encode())


def render(summary: Summary) -> str:
    """The report as HTML."""
    return (
        environment("secure_fedhelp.research")
        .get_template("report.html")
        .render(
            s=summary,
            w=wording,
            version=__version__,
            figures=_figures(summary),
            measured=any(wording.metrics(h, key) for h in summary.hospitals for key, _, _ in wording.MODELS),
            largest_epsilon=max(h.epsilon_budget for h in summary.hospitals),
            odds=numbers.odds(max(h.epsilon_budget for h in summary.hospitals)),
            deltas=" and ".join(sorted({f"{h.delta:g}" for h in summary.hospitals})),
            own_tests=bool(summary.cohort and any(h.test for h in summary.cohort.hospitals)),
            histories=[h for h in summary.hospitals if h.history],
        )
    )


def _figures(summary: Summary) -> list[tuple[str, Markup]]:
    """Caption and chart of every figure that this summary has the data for."""
    made = [_models(summary), _utility(summary), _epsilon(summary), _traffic(summary)]
    return [figure for figure in made if figure is not None]


def _models(summary: Summary) -> tuple[str, Markup] | None:
    series = [charts.Series(heading, *_SHAPES[key]) for key, heading, _ in wording.MODELS]
    rows = []
    for h in summary.hospitals:
        found = [wording.metrics(h, key) for key, _, _ in wording.MODELS]
        rows.append(charts.Row(h.name, tuple(None if m is None else m.auroc for m in found)))
    if not any(value is not None for row in rows for value in row.values):
        return None
    said = "; ".join(
        f"{row.label}: " + ", ".join(f"{s.label} {wording.share(v)}" for s, v in zip(series, row.values, strict=True))
        for row in rows
    )
    caption = "AUROC of four models at each hospital on the plan's test set. Further right is better."
    return caption, charts.dot_chart("figure-models", "AUROC of four models at each hospital", said, series, rows)


def _utility(summary: Summary) -> tuple[str, Markup] | None:
    lines = _lines(summary, lambda row: row.auroc)
    if not lines:
        return None
    levels = []
    if summary.public_only is not None:
        levels = [charts.Level("public set only", summary.public_only.auroc)]
    chart = charts.line_chart(
        "figure-utility",
        "AUROC of the shared model by round",
        _spoken(lines, wording.share),
        lines,
        levels,
        least_span=0.05,
    )
    return "AUROC of the shared model after each round. Hospitals with the same values share a line.", chart


def _epsilon(summary: Summary) -> tuple[str, Markup] | None:
    lines = _lines(summary, lambda row: row.epsilon)
    if not lines:
        return None
    budgets = sorted({h.epsilon_budget for h in summary.hospitals})
    levels = [charts.Level(f"budget {wording.epsilon(b)}", b) for b in budgets]
    chart = charts.line_chart(
        "figure-epsilon",
        "Epsilon spent by round against the budget",
        _spoken(lines, wording.epsilon) + ". " + ", ".join(level.label for level in levels),
        lines,
        levels,
        floor=0.0,
    )
    return "Epsilon spent for each patient up to each round, and the budget that the plan allows.", chart


def _traffic(summary: Summary) -> tuple[str, Markup] | None:
    rows = [charts.Row(h.name, (h.bytes_up, h.bytes_down, h.float32_bytes)) for h in summary.hospitals]
    if not any(value is not None for row in rows for value in row.values):
        return None
    series = (("sent", "shared bar"), ("received", "shared bar hollow"), ("float32, one way", "rival bar"))
    said = "; ".join(
        f"{row.label}: "
        + ", ".join(
            f"{label} {wording.size(None if v is None else int(v))}"
            for (label, _), v in zip(series, row.values, strict=True)
        )
        for row in rows
    )
    caption = "Bytes of the whole study, encrypted, beside what the same values sent as plain float32 would take."
    return caption, charts.bar_chart(
        "figure-bytes", "Bytes against float32", said, series, rows, lambda v: wording.size(int(v))
    )


def _lines(summary: Summary, value: Callable[[RoundSummary], float | None]) -> list[charts.Line]:
    """One line for each set of hospitals whose values are the same in every round."""
    groups: dict[tuple[charts.Point, ...], list[HospitalSummary]] = {}
    for hospital in summary.hospitals:
        points = tuple((float(row.round + 1), found) for row in hospital.history if (found := value(row)) is not None)
        if points:
            groups.setdefault(points, []).append(hospital)
    return [charts.Line(_group_label(g, summary), points, _group_style(g)) for points, g in groups.items()]


def _group_label(group: list[HospitalSummary], summary: Summary) -> str:
    if len(group) == 1:
        return group[0].name
    if len(group) == len(summary.hospitals):
        return "all hospitals"
    tiers = {h.tier for h in group}
    tier = group[0].tier if len(tiers) == 1 else ""
    whole = tier and len(group) == sum(h.tier == tier for h in summary.hospitals)
    return f"{'all' if whole else len(group)} {tier}".strip() + ("" if tier else " hospitals")


def _group_style(group: list[HospitalSummary]) -> str:
    tiers = {h.tier for h in group}
    return tiers.pop() if len(tiers) == 1 else "both"


def _spoken(lines: Iterable[charts.Line], form: Callable[[float], str]) -> str:
    return "; ".join(f"{line.label}: " + ", ".join(f"round {x:g} {form(y)}" for x, y in line.points) for line in lines)
