"""Everything that docs/results.md shows, from scratch: runs the studies, keeps their figures, fills the tables.

    python benchmarks/results.py run --data-dir DATA        # hours; ended, it goes on where it was
    python benchmarks/results.py run --data-dir DATA --missing   # only what docs/results/ has no row of
    python benchmarks/results.py tables                     # fills docs/results.md from the kept figures alone

What is run is in results.toml, studies in studies/. Each finished run is a file under --out; its figures, one row a
run, are kept in docs/results/PART.csv. A table stands in docs/results.md between ``<!-- table: ... -->`` and
``<!-- end -->``; the words in the first say which (TABLES below).
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from secure_fedhelp.cli.sweep import RunProgress
from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.pages.numbers import NOTHING
from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep import statistics
from secure_fedhelp.research.sweep.engines import processes
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.figures import metric_name
from secure_fedhelp.research.sweep.runs import FREE, Run, expand, names, parse_epsilons
from secure_fedhelp.research.sweep.store import Store, run_row
from secure_fedhelp.research.sweep.sweep import sweep
from secure_fedhelp.study.files import write_atomic

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "results.md"
KEPT = HERE.parent / "docs" / "results"
#: Columns of a kept row beside TIER_MODEL_METRIC; OUT/PART/results.csv has all of them.
ABOUT = (
    "run",
    "contender",
    "epsilon",
    "seed",
    "encryption",
    "plan_sha256",
    "versions",
    "epsilon_spent",
    "bytes_up",
    "seconds",
)
#: Rivals as the tables' headings have them; docs/results.md says what they are.
SHORT = {
    "local": "own records",
    "local-warm": "own records, warm",
    "local-dp": "own records, DP",
    "local-dp-warm": "own records, DP, warm",
    "public": "public set",
    "public-labels": "public set, labels only",
    "teacher": "teacher",
    "pooled": "pooled",
}
Row = dict[str, str]
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Part(BaseModel):
    """One sweep: a study, perhaps changed, and what is run of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    study: str
    methods: str
    epsilon: str = "3"
    seeds: int = Field(default=5, ge=1)
    #: As deployed, so that bytes are those on the wire; else in plain.
    encrypted: bool = False
    #: Keys of the study file that are replaced.
    change: dict[str, Any] = Field(default_factory=dict)

    def runs(self, data_dir: Path | None, seeds: int | None = None, epsilon: str | None = None) -> list[Run]:
        study = load_study(HERE / "studies" / self.study)
        values = study.model_dump(exclude_none=True) | {"name": self.name} | self.change
        changed = StudyFile.model_validate(values)
        budgets = parse_epsilons(epsilon or self.epsilon)
        return expand(
            changed, names(self.methods), budgets, min(seeds or self.seeds, self.seeds), self.encrypted, data_dir
        )


def parts() -> dict[str, Part]:
    """Those of results.toml by name, in its order."""
    found = [Part.model_validate(values) for values in _asked()["part"]]
    return {part.name: part for part in found}


def _asked() -> dict[str, Any]:
    path = HERE / "results.toml"
    return _toml(path, path.stat().st_mtime_ns)


@cache
def _toml(path: Path, changed: int) -> dict[str, Any]:
    """As :func:`_rows`: every cell asks."""
    return tomllib.loads(path.read_text())


def dealt_anew(part: str) -> float:
    """Test patients over training patients where each seed deals the same patients anew; 0 where it does not."""
    asked = _asked()
    shares: dict[str, float] = asked.get("dealt_anew", {})
    return next((shares.get(known["study"], 0.0) for known in asked["part"] if known["name"] == part), 0.0)


@app.command()
def run(
    data_dir: Annotated[Path, typer.Option(help="Folder with uci_heart, medmnist and retina_vessels.")],
    out: Annotated[Path, typer.Option(help="Where each finished run is kept.")] = Path("runs/results"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one core each.")] = 2,
    only: Annotated[str, typer.Option(help="Parts, with commas; all if absent.")] = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="Fewer seeds than results.toml asks for.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="Some of the budgets that results.toml asks for.")] = None,
    replace: Annotated[bool, typer.Option(help="Keep these figures even if more runs are kept now.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only runs that no row is kept of; kept rows stay.")
    ] = False,
) -> None:
    """Run what is left of each part, keep its figures, and fill the tables."""
    known = parts()
    chosen = names(only) or list(known)
    if strangers := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{strangers[0]!r} is none of {', '.join(known)}")
    if missing and replace:
        raise typer.BadParameter("--missing keeps the rows that --replace would drop")
    failed, screen = 0, Console(highlight=False)
    for name in chosen:
        whole = known[name].runs(data_dir)
        before = _still_asked(name, whole) if missing else []
        have = {row["run"] for row in before}
        asked = [one for one in known[name].runs(data_dir, seeds, epsilon) if one.id not in have]
        done = Store(out / name)
        left = sum(not done.done(one) for one in asked)
        print(f"{name}: {len(asked)} runs, {left} left", flush=True)
        try:
            with RunProgress(screen, left) as progress:
                if asked:  # a page of nothing cannot be made
                    sweep(asked, out / name, lambda runs: processes(runs, jobs), progress.told)
        except InvalidData as error:
            failed += 1
            print(f"{name}: left out. {error.message} {error.hint}", flush=True)
            continue
        finally:
            failed += progress.failed
        # All that was ever done of the part, also where only some of it was asked for now.
        new = [row_of(result) for result in done.results(whole) if result.run not in have]
        rows = [*before, *new]
        if replace or missing or len(rows) >= len(kept(name)):
            keep(name, rows)
        else:
            print(f"{name}: {len(kept(name))} runs are kept, and {out} has {len(rows)}: nothing replaced (--replace)")
    fill()
    if failed:
        print(f"{failed} run(s) or part(s) failed; run this again to repeat them")
        raise typer.Exit(1)


@app.command()
def tables() -> None:
    """Fill docs/results.md from docs/results/ alone."""
    fill()


def _still_asked(name: str, whole: Sequence[Run]) -> list[Row]:
    """The kept rows of a part that its study still asks for: a run's name changes with all that it depends on."""
    ids = {one.id for one in whole}
    return [row for row in kept(name) if row["run"] in ids]


def row_of(result: RunResult) -> dict[str, Any]:
    """A run's row with its tiers' means and, as HOSPITAL_MODEL_METRIC, what each hospital is judged by."""
    judged = ("auroc", "dice", "home_auroc", "home_dice")
    return run_row(result) | {
        f"{h.hospital}_{h.model}_{metric}": h.metrics[metric]
        for h in result.hospitals
        for metric in judged
        if metric in h.metrics
    }


def keep(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The figures of a part, one row a run, to four digits."""
    about = {field.name for field in fields(RunResult)}
    columns = [*ABOUT, *sorted({key for row in rows for key in row} - about)]
    KEPT.mkdir(exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (row["contender"], row["epsilon"], int(row["seed"]))):
        writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})
    write_atomic(KEPT / f"{name}.csv", text.getvalue().encode())


def kept(name: str) -> list[Row]:
    """A part's rows; none if it has not been run."""
    path = KEPT / f"{name}.csv"
    return _rows(path, path.stat().st_mtime_ns) if path.exists() else []


@cache
def _rows(path: Path, changed: int) -> list[Row]:
    """Every cell of every table asks for them: read once, until the file has ``changed``."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- figures ---


def contender_of(who: str) -> tuple[str, str]:
    """Contender and model of ``fedhelp:shared``, or of a rival's name, which has only one; ``@EPSILON`` apart."""
    name, _, model = who.partition("@")[0].partition(":")
    return name, model or name


def by_seed(part: str, who: str, tier: str, metric: str, epsilon: str = "3") -> dict[int, float]:
    """The mean over a tier's hospitals, or one hospital's figure, by seed; ``tier`` names either. ``fedhelp:shared@1``
    is at epsilon 1, whatever the table's."""
    name, model = contender_of(who)
    epsilon = who.partition("@")[2] or epsilon
    wanted, column = "inf" if name in FREE else epsilon, f"{tier}_{model}_{metric}"
    return {
        int(row["seed"]): float(row[column])
        for row in kept(part)
        if (row["contender"], row["epsilon"]) == (name, wanted) and row.get(column)
    }


def level(part: str, who: str, tier: str, metric: str, epsilon: str = "3") -> str:
    found = by_seed(part, who, tier, metric, epsilon)
    return statistics.level_words(statistics.level(found)) + _fewer(part, len(found)) if found else NOTHING


def gain(part: str, who: str, rival: str, tier: str, metric: str, epsilon: str = "3") -> str:
    """One less the other, paired by seed, with the 95 % t interval; bold if all of that is above zero.

    Where each seed deals the same patients anew, seeds are no independent sample, and the interval is widened by the
    share of patients who are tested on: Nadeau and Bengio, Machine Learning 52 (2003), (1/n + test/training) s^2.
    """
    mine, theirs = (by_seed(part, one, tier, metric, epsilon) for one in (who, rival))
    found = statistics.difference(mine, theirs)
    if found is None:
        return NOTHING
    seeds = len(mine.keys() & theirs.keys())
    found = replace(found, half_width=found.half_width * math.sqrt(1 + seeds * dealt_anew(part)))
    said = statistics.difference_words(found)
    return (f"**{said}**" if found.ends[0] > 0 else said) + _fewer(part, seeds)


def _fewer(part: str, seeds: int) -> str:
    """A mean over fewer seeds than others of the part have must not look like one over all: the rest may fail."""
    there = len({row["seed"] for row in kept(part)})
    return "" if seeds == there else f" ({seeds} of {there} seeds)"


# --- tables ---


def levels(part: str, who: str, tier: str, metric: str) -> list[list[str]]:
    """``levels PART fedhelp:shared,local-dp TIER|HOSPITAL METRIC``: a row each, a column for every epsilon."""
    epsilons = names(parts()[part].epsilon)
    headings = [budget_words(epsilon) for epsilon in epsilons]
    rows = [[f"{metric_name(metric)}, {tier}{' hospitals' * (tier in ('large', 'small'))}", *headings]]
    for one in names(who):
        free = contender_of(one)[0] in FREE
        cells = [level(part, one, tier, metric, epsilon) for epsilon in epsilons]
        rows.append([words(one), *([""] * (len(epsilons) - 1) + cells[-1:] if free else cells)])
    return rows


def gains(many: str, pairs: str, tier: str, metric: str, epsilon: str = "3") -> list[list[str]]:
    """``gains PART,PART fedhelp:shared/local-dp,... TIER METRIC [EPSILON]``: a row a part, a column a pair.

    With ``auto`` the metric is Dice where there are masks, else AUROC.
    """
    asked = _pairs(pairs)
    rows = [_differences(asked)]
    for part in names(many):
        chosen = ("dice" if _masked(part) else "auroc") if metric == "auto" else metric
        label = f"{part} (Dice)" if chosen == "dice" else part
        rows.append([label, *(gain(part, one, two, tier, chosen, epsilon) for one, two in asked)])
    return rows


def each(part: str, hospitals: str, pairs: str, metric: str, epsilon: str = "3") -> list[list[str]]:
    """``each PART HOSPITAL,... fedhelp:shared/local-dp,... METRIC``: the gains of a part, a row for each hospital."""
    asked = _pairs(pairs)
    found = [
        [f"{part} {hospital}", *(gain(part, one, two, hospital, metric, epsilon) for one, two in asked)]
        for hospital in names(hospitals)
    ]
    return [_differences(asked), *found]


def _pairs(said: str) -> list[tuple[str, str]]:
    """Of ``fedhelp:shared/local-dp,...``: who, and over whom."""
    return [(one, two) for one, _, two in (pair.partition("/") for pair in names(said))]


def _differences(asked: Sequence[tuple[str, str]]) -> list[str]:
    """The heading of a table whose columns are differences: of two contenders, or of one at two epsilons."""
    return ["", *(_difference(one, two) for one, two in asked)]


def _difference(one: str, two: str) -> str:
    (who, _, at), (other, _, elsewhere) = one.partition("@"), two.partition("@")
    if who == other and at and elsewhere:
        return f"{words(who)}: {budget_words(at)} − {budget_words(elsewhere)}"
    return f"{words(one)} − {words(two)}"


def budget_words(epsilon: str) -> str:
    return "no privacy" if epsilon == "inf" else f"epsilon {epsilon}"


def without(many: str, base: str, rivals: str, tier: str, metric: str) -> list[list[str]]:
    """``without PART,PART fedhelp:shared no-x:shared,... TIER METRIC``: what base has over each, a column a part."""
    heading = [f"{words(base)} −", *names(many)]
    found = [
        [words(rival), *(gain(part, base, rival, tier, metric) for part in names(many))] for rival in names(rivals)
    ]
    return [heading, *found]


def sent(part: str, base: str) -> list[list[str]]:
    """``sent PART CONTENDER``: what a hospital sent in the whole study, and as a share of what it sends with one."""
    found = {row["contender"]: float(row["bytes_up"]) for row in kept(part)}
    rows = [["", "MB that a hospital sends", f"share of {base}"]]
    return [*rows, *([name, f"{found[name] / 1e6:.3f}", f"{found[name] / found[base]:.3f}"] for name in found)]


def time() -> list[list[str]]:
    """Runs and hours of one core, part by part."""
    rows, total, runs = [["part", "runs", "hours of one core"]], 0.0, 0
    for part in parts():
        seconds = [float(row["seconds"]) for row in kept(part)]
        rows.append([part, str(len(seconds)), f"{sum(seconds) / 3600:.2f}"])
        total, runs = total + sum(seconds), runs + len(seconds)
    return [*rows, ["all", str(runs), f"{total / 3600:.1f}"]]


def _masked(part: str) -> bool:
    rows = kept(part)
    return bool(rows) and any(key.endswith("_dice") for key in rows[0])


def words(who: str) -> str:
    """How a table names a contender's model."""
    name, model = contender_of(who)
    said, at = SHORT.get(name, f"{name} {model}"), who.partition("@")[2]
    return f"{said}, {budget_words(at)}" if at else said


TABLES: dict[str, Callable[..., list[list[str]]]] = {
    "levels": levels,
    "gains": gains,
    "each": each,
    "without": without,
    "sent": sent,
    "time": time,
}
_PLACE = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """``text`` with every table made anew."""

    def table(found: re.Match[str]) -> str:
        kind, *arguments = found[2].split()
        return f"{found[1]}\n{_markdown(TABLES[kind](*arguments))}\n\n{found[3]}"

    return _PLACE.sub(table, text)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill() -> None:
    write_atomic(DOCUMENT, filled(DOCUMENT.read_text()).encode())


if __name__ == "__main__":
    try:
        app()
    except FedHelpError as error:
        sys.exit(f"{error}\n{error.hint}" if error.hint else str(error))
