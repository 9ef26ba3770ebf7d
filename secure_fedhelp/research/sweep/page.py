"""``report.html`` of a sweep: what was run, what came out with its uncertainty, and what is missing, on one page.

No script, no font, no picture from elsewhere; the page's own content security policy forbids them. All values are
escaped by Jinja2 or :mod:`markupsafe`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from secure_fedhelp import __version__
from secure_fedhelp.pages import numbers
from secure_fedhelp.pages.html import environment
from secure_fedhelp.research import wording
from secure_fedhelp.research.cohort import FEWEST_OF_A_CLASS
from secure_fedhelp.research.sweep import cohorts, figures, findings
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.runs import FREE, RIVALS, Run, seeds_of, shown_epsilon
from secure_fedhelp.research.sweep.statistics import judged_by
from secure_fedhelp.study.files import write_atomic

#: Those who have few patients are whom a federation is for.
_JUDGED_TIER = "small"
_CALIBRATION = "ece"


def write_page(
    folder: Path, runs: Sequence[Run], results: Sequence[RunResult], impossible: Mapping[str, str] | None = None
) -> Path:
    """Write ``report.html`` of those of ``runs`` that have a result, and give its place. Raises StorageError.

    ``impossible`` says by their ids why runs cannot be done.
    """
    path = folder / "report.html"
    write_atomic(path, render(runs, results, impossible).encode())
    return path


def render(runs: Sequence[Run], results: Sequence[RunResult], impossible: Mapping[str, str] | None = None) -> str:
    """The page as HTML. ``results`` are those of ``runs`` that are finished."""
    what, metric = findings.asked(runs, results), judged_by(results)
    there = findings.metrics(results)
    rows = {name: findings.levels(what, results, name) for name in dict.fromkeys((metric, *there))}
    gains = findings.gains(what, results, metric, _JUDGED_TIER)
    costs = list(findings.costs(what, results, metric, _JUDGED_TIER))
    free = [row for row in rows[metric] if row.contender in FREE]
    calibration = rows.get(_CALIBRATION, [])
    done = {result.run for result in results}
    return (
        environment("secure_fedhelp.research")
        .get_template("sweep.html")
        .render(
            w=wording,
            n=numbers,
            f=figures,
            shown=shown_epsilon,
            version=__version__,
            study=runs[0].study,
            what=what,
            metric=metric,
            tier=_JUDGED_TIER,
            seeds=seeds_of(runs),
            rounds=sorted({result.rounds for result in results}),
            rivals={name: meaning for name, meaning in RIVALS.items() if name in what.contenders},
            runs=runs,
            results=results,
            missing=[run for run in runs if run.id not in done],
            why=impossible or {},
            cohorts=cohorts.of(runs, results),
            untrained=cohorts.untrained(results),
            fewest=FEWEST_OF_A_CLASS,
            home_counts=cohorts.home(results),
            encryption=Counter(result.encryption for result in results),
            plain=sum(result.encryption == "none" for result in results),
            versions=sorted({result.versions for result in results}),
            seconds=sum(result.seconds for result in results),
            levels=rows,
            gains=gains,
            costs=costs,
            others=[name for name in there if name not in (metric, _CALIBRATION)],
            utility_panels=figures.utility(what, rows[metric], metric),
            gain_panels=figures.gain(what, gains, metric) if gains else [],
            cost_panels=figures.cost(what, costs, free, metric, _JUDGED_TIER) if costs else [],
            calibration_panels=figures.calibration(what, calibration) if calibration else [],
        )
    )
