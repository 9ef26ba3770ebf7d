"""The charts of a sweep's page, from its findings alone. What cannot be drawn is a sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from secure_fedhelp.pages import charts
from secure_fedhelp.pages.estimates import (
    MOST_BANDS,
    Ends,
    Interval,
    Series,
    Trend,
    cost_chart,
    forest_chart,
    trend_chart,
)
from secure_fedhelp.pages.numbers import NOTHING, size
from secure_fedhelp.research.sweep.findings import ALONE, COMMON, WARM, Asked, Cost, Gain, Level
from secure_fedhelp.research.sweep.runs import FREE
from secure_fedhelp.research.sweep.statistics import Estimate
from secure_fedhelp.research.wording import share, signed

#: A scale spans at least this, so that what means nothing does not look like a cliff.
_LEAST_SPAN = 0.05
#: Tiers have one scale if each fills at least this part of it; else one far away would flatten all others.
_FILLED = 0.5
_NAMES = {
    "auroc": "AUROC",
    "ece": "calibration error",
    "dice": "Dice",
    "macro_f1": "macro-F1",
    "home_auroc": "AUROC on the hospital's own patients",
    "home_dice": "Dice on the hospital's own patients",
}


@dataclass(frozen=True)
class Panel:
    """One chart under a heading, or a sentence that says why there is none. ``note`` is what the chart leaves out."""

    heading: str
    chart: Markup | None
    why: str = ""
    note: str = ""


def metric_name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def words(found: Estimate | None, form: Callable[[float], str] = share) -> str:
    """``0.812 [0.790, 0.834]``; of one seed the value alone."""
    if found is None:
        return NOTHING
    return form(found.mean) + (f" {interval_words(found, form)}" if has_interval(found) else "")


def interval_words(found: Estimate, form: Callable[[float], str] = share) -> str:
    low, high = found.ends
    return f"[{form(low)}, {form(high)}]"


def has_interval(found: Estimate | None) -> bool:
    """One seed has none: a spread needs two."""
    return found is not None and not math.isnan(found.half_width)


def utility(what: Asked, rows: Sequence[Level], metric: str) -> list[Panel]:
    """For each tier and model kind: every method and its rival with the same epsilon, free rivals as levels."""
    drawn = {(tier, model): _trends(what, rows, tier, model) for tier in what.tiers for model in ALONE}
    # a tier's shared and personal models stand side by side, so they always have one scale
    reached = {tier: [level.value for level in _free_levels(rows, tier)] for tier in what.tiers}
    for (tier, _), trends in drawn.items():
        reached[tier] += [end for _, points in _points(what, trends) for found in points if found for end in found.ends]
    scales = _scales({tier: _share_ends(values) for tier, values in reached.items()})
    return _scaled(
        [_trend(what, rows, metric, about, trends, scales[about[0]]) for about, trends in drawn.items()], scales
    )


#: A contender's estimates by budget.
_ByBudget = dict[str, Estimate | None]


def _trends(what: Asked, rows: Sequence[Level], tier: str, model: str) -> list[tuple[Series, _ByBudget]]:
    found = []
    for name in what.contenders:
        # local training with the same epsilon is what a private, shared model has to beat
        mine = {r.epsilon: r.tiers.get(tier) for r in rows if (r.contender, r.model) == (name, model)}
        if model == "shared" and not mine and name not in FREE:
            mine = {r.epsilon: r.tiers.get(tier) for r in rows if r.contender == name}
        if any(mine.values()):
            found.append((_series(what, name), mine))
    return found


def _points(what: Asked, trends: Sequence[tuple[Series, _ByBudget]]) -> list[Trend]:
    """With many series only the first keeps its intervals: bands that all overlap hide the lines and one another."""
    bands = {series for series, _ in trends if series.first or len(trends) <= MOST_BANDS}
    return [
        (series, [_interval(mine.get(epsilon), series in bands) for epsilon in what.epsilons])
        for series, mine in trends
    ]


def _free_levels(rows: Iterable[Level], tier: str) -> list[charts.Level]:
    """Rivals that spend nothing, each with its value: they are alike but for where they cross."""
    free = [(r.contender, found.mean) for r in rows if r.contender in FREE and (found := r.tiers.get(tier))]
    return [charts.Level(f"{name} {share(value)}", value) for name, value in free]


def _trend(
    what: Asked,
    rows: Sequence[Level],
    metric: str,
    about: tuple[str, str],
    trends: Sequence[tuple[Series, _ByBudget]],
    ends: Ends,
) -> Panel:
    tier, model = about
    heading = f"{tier.capitalize()} hospitals, {model} models"
    if not trends:
        return Panel(heading, None, f"No {model} model was measured at {tier} hospitals.")
    levels, points = _free_levels(rows, tier), _points(what, trends)
    said = [f"{s.label}: " + ", ".join(f"epsilon {e} {words(f)}" for e, f in mine.items()) for s, mine in trends]
    said += [level.label for level in levels]
    chart = trend_chart(
        f"chart-utility-{what.tiers.index(tier)}-{model}",
        f"{metric_name(metric)} by epsilon, {heading.lower()}",
        "; ".join(said),
        what.epsilons,
        points,
        levels,
        ends,
        "epsilon",
    )
    return Panel(heading, chart, note=_left_out(trends))


def _left_out(trends: Sequence[tuple[Series, _ByBudget]]) -> str:
    measured = [(s, found) for s, mine in trends for found in mine.values() if has_interval(found)]
    if len(trends) <= MOST_BANDS or not measured:
        return ""
    first = next((series.label for series, _ in measured if series.first), None)
    drawn = f"The band is that of {first}" if first else "No bands are drawn"
    return f"{drawn}: {len(trends)} would hide one another. All intervals are in the table."


def gain(what: Asked, rows: Sequence[Gain], metric: str) -> list[Panel]:
    """For each budget: less local training, less that from the warm start if it was run, and less the common method."""
    kinds = [("alone", "less local training from nothing", tuple(ALONE.values()))]
    if any(row.over in WARM.values() for row in rows):
        kinds.append(("warm", "less local training from the public warm start", tuple(WARM.values())))
    kinds.append((COMMON, f"less {COMMON}", (COMMON,)))
    panels = []
    for epsilon in what.epsilons:
        for kind, heading, overs in kinds:
            kindred = [r for r in rows if r.over in overs]
            # one scale for all budgets, which zero is always in
            reached = [end for r in kindred if r.found for end in _sure(r.found).ends]
            ends = (min(-_LEAST_SPAN / 2, *reached, 0.0), max(_LEAST_SPAN / 2, *reached, 0.0))
            mine = [r for r in kindred if r.epsilon == epsilon]
            panels.append(_forest(what, mine, metric, (epsilon, kind, heading), ends))
    return panels


def _forest(what: Asked, rows: Sequence[Gain], metric: str, about: tuple[str, str, str], ends: Ends) -> Panel:
    epsilon, kind, heading = about
    title = f"ε = {epsilon}, {heading}"
    if what.tiers and "small" not in what.tiers:
        return Panel(title, None, "The study has no small hospitals, whose gain this would be.")
    if not any(row.found for row in rows):
        others = " nor ".join(dict.fromkeys(row.over for row in rows)) or COMMON
        return Panel(title, None, f"No seed has both a method and {others} at this epsilon: nothing to compare.")
    # what was not run is in the table; in the chart it would be an empty row for each method
    measured = [row for row in rows if row.found]
    drawn = [(_series(what, r.contender, r.model), _interval(r.found)) for r in measured]
    said = "; ".join(f"{r.contender} {r.model} less {r.over} {words(r.found, signed)}" for r in measured)
    axis = f"difference in {metric_name(metric)}"
    ident = f"chart-gain-{what.epsilons.index(epsilon)}-{kind}"
    return Panel(title, forest_chart(ident, title, said, drawn, ends, axis, zero=True))


def cost(what: Asked, rows: Sequence[Cost], free: Sequence[Level], metric: str, tier: str) -> list[Panel]:
    """For each model kind: a mark a method and budget; what sends nothing as levels."""
    levels = _free_levels(free, tier)
    # marks alone are drawn, so intervals need no room
    means = [found.mean for row in rows for found in row.models.values() if found]
    ends = _share_ends([*means, *(level.value for level in levels)])
    panels = []
    for model in ALONE:
        heading = f"{tier.capitalize()} hospitals, {model} models"
        mine = [row for row in rows if row.models[model] and row.bytes_up > 0]
        if not mine:
            panels.append(Panel(heading, None, f"No method that sends anything was measured with {model} models."))
            continue
        paths = [
            (_series(what, name), [(r.bytes_up, _sure(r.models[model])) for r in mine if r.contender == name])
            for name in dict.fromkeys(row.contender for row in mine)
        ]
        said = "; ".join(
            f"{r.contender}, epsilon {r.epsilon}: {size(round(r.bytes_up))}, {words(r.models[model])}" for r in mine
        )
        title = f"{metric_name(metric)} against bytes, {heading.lower()}"
        axis = "bytes that one hospital sent"
        panels.append(Panel(heading, cost_chart(f"chart-cost-{model}", title, said, paths, levels, ends, axis)))
    return panels


def calibration(what: Asked, rows: Sequence[Level]) -> list[Panel]:
    """For each tier and budget a row for every model; those that spend nothing are in each."""
    highs = {tier: [_sure(found).ends[1] for row in rows if (found := row.tiers.get(tier))] for tier in what.tiers}
    scales = _scales({tier: (0.0, max(_LEAST_SPAN, min(1.0, max(ends, default=0.0)))) for tier, ends in highs.items()})
    panels = []
    for tier in what.tiers:
        for number, epsilon in enumerate(what.epsilons):
            heading = f"{tier.capitalize()} hospitals, ε = {epsilon}"
            mine = [r for r in rows if r.epsilon in ("", epsilon) and r.tiers.get(tier)]
            if not mine:
                panels.append(Panel(heading, None, "Calibration was not measured here."))
                continue
            drawn = [(_series(what, r.contender, _model(r)), _interval(r.tiers[tier])) for r in mine]
            said = "; ".join(f"{_label(r)} {words(r.tiers[tier])}" for r in mine)
            chart = forest_chart(
                f"chart-calibration-{what.tiers.index(tier)}-{number}",
                f"Expected calibration error, {heading}",
                said,
                drawn,
                scales[tier],
                "expected calibration error",
            )
            panels.append(Panel(heading, chart))
    return _scaled(panels, scales)


def _label(row: Level) -> str:
    return f"{row.contender}, {_model(row)}" if _model(row) else row.contender


def _model(row: Level) -> str:
    """Empty for a rival, which has only one."""
    return "" if row.model == row.contender else row.model


def _series(what: Asked, contender: str, model: str = "") -> Series:
    """One colour and mark a contender on the whole page."""
    return Series(contender, what.contenders.index(contender), model)


def _interval(found: Estimate | None, ends: bool = True) -> Interval | None:
    if found is None:
        return None
    return _sure(found) if ends else Interval(found.mean)


def _sure(found: Estimate | None) -> Interval:
    assert found is not None  # noqa: S101 - the caller has looked
    if not has_interval(found):
        return Interval(found.mean)
    return Interval(found.mean, *found.ends)


def _scales(tiers: dict[str, Ends]) -> dict[str, Ends]:
    """One scale for all tiers, or where that would flatten one of them, a scale for each."""
    if not tiers:
        return {}
    common = (min(low for low, _ in tiers.values()), max(high for _, high in tiers.values()))
    fits = all(high - low >= _FILLED * (common[1] - common[0]) for low, high in tiers.values())
    return dict.fromkeys(tiers, common) if fits else tiers


def _scaled(panels: Sequence[Panel], scales: dict[str, Ends]) -> list[Panel]:
    """The panels, which say so if not all have one scale."""
    if len(set(scales.values())) < 2:
        return list(panels)
    own = "The other hospitals' charts have another scale."
    return [replace(one, note=f"{one.note} {own}".strip()) if one.chart else one for one in panels]


def _share_ends(values: Iterable[float]) -> Ends:
    """Ends of an axis for shares: all values, as far as a share can be."""
    every = list(values) or [0.0, 1.0]
    low, high = max(0.0, min(every)), min(1.0, max(every))
    return min(low, high - _LEAST_SPAN), high
