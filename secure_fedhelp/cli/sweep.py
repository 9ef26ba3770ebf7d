"""``secure-fedhelp sweep``: methods, budgets and seeds of one study, resumable, on this machine or a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from secure_fedhelp.research.sweep.before import Before
    from secure_fedhelp.research.sweep.engines import Outcome
    from secure_fedhelp.research.sweep.execute import RunResult
    from secure_fedhelp.research.sweep.mlflow_log import MlflowLog
    from secure_fedhelp.research.sweep.runs import Run
    from secure_fedhelp.research.sweep.statistics import Estimate
    from secure_fedhelp.research.sweep.sweep import Engine


#: What stands beside the study file's method where nobody names others.
USUAL = ("fedavg", "local-dp", "local-dp-warm", "local", "local-warm")


class EngineKind(StrEnum):
    """Where runs are executed."""

    processes = "processes"
    ray = "ray"


def sweep(
    study: Annotated[Path, typer.Argument(help="The study file (examples/, docs/simulation.md).")],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, variants of the study file and rivals, with commas (docs/simulation.md).",
            show_default=f"the study file's method, {','.join(USUAL)}",
        ),
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="Budgets, with commas; inf is without privacy.", show_default="the study file's, or else 3"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions; each has its own split, weights and noise.")] = 5,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data, for data sets that are not embedded.")
    ] = None,
    encryption: Annotated[
        bool, typer.Option("--encryption/--no-encryption", help="Off: sums in plain, for speed; every result says so.")
    ] = True,
    engine: Annotated[EngineKind, typer.Option(help="ray needs the extra of that name.")] = EngineKind.processes,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time with the engine processes.", show_default="2")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster: HOST:PORT, or ray://HOST:PORT from outside of it; absent: one is started here."
        ),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="Log to MLflow too: a folder or a server; needs the extra of that name.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the sweep. Started again, it goes on.")] = Path("runs/sweep"),
) -> None:
    """Run a study with several methods, budgets and seeds, and put everything into tables.

    A run whose study ended without its rounds has failed. The command ends with exit code 1 if a run failed, once the
    others are done and shown.

    A sweep that was ended goes on where it was, and one that asks for more does only what is new. Tables and report are
    of what was asked for last.

    Example: secure-fedhelp sweep examples/heart.toml --data-dir data --methods fedhelp,fedavg --epsilon 1,3 --seeds 2
    """
    from rich.console import Console

    from secure_fedhelp.research.study_file import load_study
    from secure_fedhelp.research.sweep.runs import expand, names, own_method, parse_epsilons, usual_epsilon

    screen, chosen = Console(highlight=False), _engine(engine, jobs, ray_address)
    loaded = load_study(study)
    contenders = [own_method(loaded), *USUAL] if methods is None else names(methods)
    budgets = [usual_epsilon(loaded)] if epsilon is None else parse_epsilons(epsilon)
    runs = expand(loaded, contenders, budgets, seeds, encryption, data_dir)
    log = _log(mlflow, loaded.name)  # before anything starts: whoever wants it logged wants to know at once
    run_all(screen, runs, out, chosen, log)


def run_all(
    screen: Console,
    runs: Sequence[Run],
    out: Path,
    engine: Engine,
    log: MlflowLog | None = None,
    *,
    anew: bool = False,
    shown: bool = False,
) -> None:
    """Do what is left of ``runs``, or all ``anew``, with a bar, and print their tables. Exits with 1 if one failed.

    ``shown``: whose records they are of stands on the screen already.
    """
    from secure_fedhelp.research.sweep.store import Store
    from secure_fedhelp.research.sweep.sweep import sweep as run

    store = Store(out)
    left = [r for r in runs if anew or not store.done(r)]
    screen.print(f"{len(runs)} runs, {len(runs) - len(left)} done before, in {out}", markup=False)
    if others := store.others(runs):
        screen.print(f"{others} other finished run(s) are in the folder, and in no table of this call", markup=False)
    with RunProgress(screen, len(left)) as progress:
        begun = partial(_begun, screen, progress, runs[0].study.name, shown)
        results = run(runs, out, engine, progress.told, log or (lambda result: None), anew=anew, begun=begun)
    _print(screen, runs, results, list(dict.fromkeys(r.contender for r in runs)))
    screen.print(f"\nReport: {out / 'report.html'}", markup=False)
    screen.print(f"Tables: {out / 'results.csv'} and .parquet, {out / 'hospitals.csv'} and .parquet", markup=False)
    if hopeless := progress.hopeless:
        screen.print(f"{hopeless} run(s) cannot be done with these data, as said above.", style="bold red")
    if (again := progress.failed - hopeless) > 0:
        screen.print(f"{again} run(s) failed; start the sweep again to repeat them.", style="bold red")
    if log is not None and log.failure is not None:
        raise log.failure
    if progress.failed:
        raise typer.Exit(1)


def _begun(screen: Console, progress: RunProgress, study: str, shown: bool, before: Before) -> None:
    """Whose records the runs are of, and which of them cannot be done, before the first one."""
    from secure_fedhelp.research.records_table import print_cohort

    progress.hopeless = len(before.impossible)
    if before.cohort is not None and not shown:
        print_cohort(study, before.cohort, screen)
    if before.problems:
        rest = "the others are done" if before.impossible else "rivals are trained at the other hospitals"
        screen.print(f"{len(before.impossible)} run(s) cannot be done with these data; {rest}:", style="bold red")
        for problem in before.problems:
            screen.print(f"  {problem.line}", style="red", markup=False)
        screen.print(f"hint: {before.advice}", markup=False)
    if before.cohort is not None and before.cohort.columns and before.seeds > 1 and not shown:
        screen.print("Counts, centres, scales and categories are of the first seed.", markup=False)


def _log(uri: str | None, study: str) -> MlflowLog | None:
    if uri is None:
        return None
    from secure_fedhelp.research.sweep.mlflow_log import MlflowLog

    return MlflowLog(uri, study)


def _engine(kind: EngineKind, jobs: int | None, address: str | None) -> Engine:
    """Raises BadParameter for what the other engine would need: it would have no effect, and nobody would notice."""
    from secure_fedhelp.research.sweep import engines

    if kind is EngineKind.ray:
        if jobs is not None:
            raise typer.BadParameter("with --engine ray the cluster says how many runs go at a time; leave --jobs out")
        return lambda runs: engines.ray(runs, address)
    if address is not None:
        raise typer.BadParameter("--ray-address needs --engine ray")
    return lambda runs: engines.processes(runs, 2 if jobs is None else jobs)


class RunProgress:
    """A bar with the time that is left, or a line a run with it; and a line for each run that failed."""

    def __init__(self, screen: Console, runs: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.description}"), console=screen, disable=not screen.is_terminal)
        self._task = self._bar.add_task("", total=runs)
        self._screen, self.failed, self.hopeless = screen, 0, 0

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def told(self, outcome: Outcome) -> None:
        run = outcome.run
        words = f"{run.contender}, epsilon {run.epsilon:g}, seed {run.study.seed}"
        self._bar.update(self._task, advance=1, description=words)
        if outcome.error is not None:
            self.failed += 1
            self._screen.print(f"{run.id} ({words}) failed: {outcome.error}", style="red", markup=False)
        elif not self._screen.is_terminal:
            task = self._bar.tasks[self._task]
            far = f"{task.completed:.0f} of {task.total:.0f}"
            if not task.finished and task.time_remaining is not None:
                far += f", about {timedelta(seconds=task.time_remaining)} left"
            self._screen.print(f"{run.id} done: {words} ({far})", markup=False)


def _print(screen: Console, runs: Sequence[Run], results: Sequence[RunResult], contenders: Sequence[str]) -> None:
    """For each tier and budget a table: level of each contender, and its difference to the first one."""
    from rich.table import Table

    from secure_fedhelp.research.sweep.findings import asked
    from secure_fedhelp.research.sweep.runs import FREE, shown_epsilon
    from secure_fedhelp.research.sweep.statistics import difference, judged_by, level, level_words, values

    metric, what = judged_by(results), asked(runs, results)
    kinds = sorted({r.encryption for r in results if r.encryption != "not needed"})
    if kinds:
        screen.print(f"\nEncryption: {'; '.join(kinds)}.", markup=False)
    first = contenders[0]
    # Rivals that need no budget stand beside every budget; by themselves under "inf".
    spending = [run.epsilon for run in runs if run.contender not in FREE] or [math.inf]
    for tier in sorted({h.tier for r in results for h in r.hospitals}):
        for budget in map(shown_epsilon, dict.fromkeys(spending)):
            table = Table(title=f"{tier} hospitals, epsilon {budget}: {metric}", title_justify="left")
            for heading in ("method", "model", "mean ± sd", f"less {first}"):
                table.add_column(heading)
            for name in contenders:
                for model in ("shared", "personal", name):
                    found = values(results, name, budget, tier, model, metric)
                    if found:
                        base = values(results, first, budget, tier, _base(first, name, model), metric)
                        alike = what.comparable(name, first)
                        less = "" if name == first else _difference(difference(found, base)) if alike else "other data"
                        table.add_row(name, model, level_words(level(found)), less)
            if table.row_count:
                screen.print(table)


def _base(first: str, name: str, model: str) -> str:
    """The model of the first contender that a row is compared with: of a rival the only one, else one of its kind.

    What spends no epsilon stays at home like a personal model; what spends it is private like a shared one.
    """
    from secure_fedhelp.research.sweep.runs import FREE, RIVALS

    if first in RIVALS:
        return first
    if name in RIVALS:
        return "personal" if name in FREE else "shared"
    return model


def _difference(found: Estimate | None) -> str:
    from secure_fedhelp.research.sweep.statistics import difference_words

    return "" if found is None else difference_words(found)
