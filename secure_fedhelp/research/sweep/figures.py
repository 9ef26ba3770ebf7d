"""The charts of a sweep's page, from its findings alone. What cannot be drawn is a sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secure_fedhelp.pages import charts
from secure_fedhelp.pages.estimates import Ends, Interval, Series, cost_chart, forest_chart, trend_chart
from secure_fedhelp.pages.numbers import NOTHING, size
from secure_fedhelp.research.sweep.findings import ALONE, COMMON, Asked, Cost, Gain, Level
from secure_fedhelp.research.sweep.runs import FREE
from secure_fedhelp.research.sweep.statistics import Estimate
from secure_fedhelp.research.wording import share, signed

#: Charts of one kind have one scale; it spans at least this, so that what means nothing does not look like a cliff.
_LEAST_SPAN = 0.05
_NAMES = {"auroc": "AUROC", "ece": "calibration error", "dice": "Dice", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Panel:
    """One chart under a heading, or a sentence that says why there is none."""

    heading: str
    chart: Markup | None
    why: str = ""


def metric_name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def words(found: Estimate | None, form: Callable[[float], str] = share) -> str:
    """``0.812 [0.790, 0.834]``; of one seed the value alone."""
    if found is None:
        return NOTHING
    return form(found.mean) + (f" {interval_words(found, form)}" if has_interval(found) else "")


def interval_words(found: Estimate, form: Callable[[float], str] = share) -> str:
    return f"[{form(found.mean - found.half_width)}, {form(found.mean + found.half_width)}]"


def has_interval(found: Estimate | None) -> bool:
    """One seed has none: a spread needs two."""
    return found is not None and not math.isnan(found.half_width)


def utility(what: Asked, rows: Sequence[Level], metric: str) -> list[Panel]:
    """For each tier and model kind: every method and its rival with the same epsilon, free rivals as levels."""
    ends = _share_ends(found for row in rows for found in row.tiers.values())
    return [_trend(what, rows, metric, tier, model, ends) for tier in what.tiers for model in ALONE]


def _trend(what: Asked, rows: Sequence[Level], metric: str, tier: str, model: str, ends: Ends) -> Panel:
    heading = f"{tier.capitalize()} hospitals, {model} models"
    free = [row for row in rows if row.contender in FREE]
    levels = [charts.Level(r.contender, found.mean) for r in free if (found := r.tiers.get(tier))]
    trends = []
    for name in what.contenders:
        # local training with the same epsilon is what a private, shared model has to beat
        mine = {r.epsilon: r.tiers.get(tier) for r in rows if (r.contender, r.model) == (name, model)}
        if model == "shared" and not mine and name not in FREE:
            mine = {r.epsilon: r.tiers.get(tier) for r in rows if r.contender == name}
        if any(mine.values()):
            trends.append((_series(what, name), [_interval(mine.get(epsilon)) for epsilon in what.epsilons], mine))
    if not trends:
        return Panel(heading, None, f"No {model} model was measured at {tier} hospitals.")
    said = [f"{s.label}: " + ", ".join(f"epsilon {e} {words(f)}" for e, f in mine.items()) for s, _, mine in trends]
    said += [f"{level.label}: {share(level.value)}" for level in levels]
    chart = trend_chart(
        f"chart-utility-{what.tiers.index(tier)}-{model}",
        f"{metric_name(metric)} by epsilon, {heading.lower()}",
        "; ".join(said),
        what.epsilons,
        [(series, points) for series, points, _ in trends],
        levels,
        ends,
        "epsilon",
    )
    return Panel(heading, chart)


def gain(what: Asked, rows: Sequence[Gain], metric: str) -> list[Panel]:
    """For each budget: less local training, and less the common method."""
    kinds = (("alone", "less local training"), (COMMON, f"less {COMMON}"))
    panels = []
    for epsilon in what.epsilons:
        for kind, heading in kinds:
            kindred = [r for r in rows if (r.over == COMMON) == (kind == COMMON)]
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
    drawn = [(_series(what, r.contender, f"{r.contender}, {r.model}"), _interval(r.found)) for r in measured]
    said = "; ".join(f"{r.contender} {r.model} less {r.over} {words(r.found, signed)}" for r in measured)
    axis = f"difference in {metric_name(metric)}"
    ident = f"chart-gain-{what.epsilons.index(epsilon)}-{kind}"
    return Panel(title, forest_chart(ident, title, said, drawn, ends, axis, zero=True))


def cost(what: Asked, rows: Sequence[Cost], free: Sequence[Level], metric: str, tier: str) -> list[Panel]:
    """For each model kind: a mark a method and budget; what sends nothing as levels."""
    levels = [charts.Level(r.contender, found.mean) for r in free if (found := r.tiers.get(tier))]
    ends = _share_ends([*(f for row in rows for f in row.models.values()), *(r.tiers.get(tier) for r in free)])
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
    intervals = [_sure(found) for row in rows for found in row.tiers.values() if found]
    highest = min(1.0, max((one.ends[1] for one in intervals), default=0.0))
    panels = []
    for tier in what.tiers:
        for number, epsilon in enumerate(what.epsilons):
            heading = f"{tier.capitalize()} hospitals, ε = {epsilon}"
            mine = [r for r in rows if r.epsilon in ("", epsilon) and r.tiers.get(tier)]
            if not mine:
                panels.append(Panel(heading, None, "Calibration was not measured here."))
                continue
            drawn = [(_series(what, r.contender, _label(r)), _interval(r.tiers[tier])) for r in mine]
            said = "; ".join(f"{_label(r)} {words(r.tiers[tier])}" for r in mine)
            chart = forest_chart(
                f"chart-calibration-{what.tiers.index(tier)}-{number}",
                f"Expected calibration error, {heading}",
                said,
                drawn,
                (0.0, max(highest, _LEAST_SPAN)),
                "expected calibration error",
            )
            panels.append(Panel(heading, chart))
    return panels


def _label(row: Level) -> str:
    return row.contender if row.model == row.contender else f"{row.contender}, {row.model}"


def _series(what: Asked, contender: str, label: str = "") -> Series:
    """One colour and mark a contender on the whole page."""
    return Series(label or contender, what.contenders.index(contender))


def _interval(found: Estimate | None) -> Interval | None:
    return None if found is None else _sure(found)


def _sure(found: Estimate | None) -> Interval:
    assert found is not None  # noqa: S101 - the caller has looked
    if not has_interval(found):
        return Interval(found.mean)
    return Interval(found.mean, found.mean - found.half_width, found.mean + found.half_width)


def _share_ends(found: Iterable[Estimate | None]) -> Ends:
    """Ends of an axis for shares: all values, and their intervals as far as a share can be."""
    every = [end for one in found if one is not None for end in _sure(one).ends] or [0.0, 1.0]
    low, high = max(0.0, min(every)), min(1.0, max(every))
    return min(low, high - _LEAST_SPAN), high
