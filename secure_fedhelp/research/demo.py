"""The demonstration study: start every party, watch, and show what came out.

Each party is an operating-system process with its own folder and keys, started through the same command line a
hospital uses. This module only starts, watches and reads files; it never talks to the coordinator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from secure_fedhelp.data.checks import check_records
from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.errors import UnderQuorum
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.demo_setup import (
    RunFolder,
    create_consortium,
    create_run_folder,
    lock_run,
    write_hospitals,
    write_plan,
    write_teachers,
)
from secure_fedhelp.research.plans import build_plan
from secure_fedhelp.research.processes import Parties, ProcessFailed
from secure_fedhelp.research.progress import make_progress
from secure_fedhelp.research.report import write_report
from secure_fedhelp.research.results import collect
from secure_fedhelp.research.summary import write_summary
from secure_fedhelp.research.table import print_table
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.threshold import Masks

_LOOPBACK = "127.0.0.1:0"
_START_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.2
_STUDY_SECONDS = 3600.0


@dataclass(frozen=True)
class DemoSettings:
    """What the user asked for on the command line."""

    dataset: str
    data_dir: Path | None
    rounds: int | None
    epsilon: float
    seed: int
    out: Path
    overwrite: bool
    masks: Masks = "repairing"


def run_demo(settings: DemoSettings, progress: Progress = silent) -> None:
    """Run a study end to end and leave ``summary.json`` and ``report.html`` in the run directory.

    ``progress`` is told of a long load.

    Raises named errors for bad settings before anything is started, ProcessFailed or UnderQuorum if the study breaks.
    """
    out = Console(highlight=False)
    data = prepare(settings.dataset, settings.data_dir, settings.seed, progress=progress)
    plan = build_plan(settings.dataset, data, settings.rounds, settings.epsilon, settings.seed, settings.masks)
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)  # the others would wait for one that could not take part
    run = create_run_folder(settings.out, settings.overwrite)
    lock = lock_run(run.root)
    try:
        _run_study(settings, data, plan, run, out)
    finally:
        os.close(lock)


def _run_study(settings: DemoSettings, data: StudyData, plan: StudyPlan, run: RunFolder, out: Console) -> None:
    _announce(out, plan, run)
    started = time.monotonic()
    with Parties() as parties:
        write_plan(run.plan, plan)
        create_consortium(run, plan, time.time())
        write_teachers(run, plan, data.references)
        url = _start_foundation(run, parties)
        write_hospitals(run, plan, data, [url])
        address = _start_coordinator(run, parties)
        for hospital in plan.hospitals:
            _start_hospital(run, parties, hospital.name, address)
        _watch(run, plan, parties, out)
        wall = time.monotonic() - started
    summary = collect(run, plan, settings.dataset, wall, parties.peak_memory_bytes, data)
    write_summary(run.root / "summary.json", summary)
    write_report(summary, run.root / "report.html")
    print_table(summary, out)
    out.print(f"\nReport: {run.root / 'report.html'}   Summary: {run.root / 'summary.json'}", markup=False)
    out.print(f"Check it yourself: secure-fedhelp audit verify {run.root}", markup=False)


def _announce(out: Console, plan: StudyPlan, run: RunFolder) -> None:
    privacy = plan.privacy["small"]
    out.print(
        f"Study {plan.study.name}: {len(plan.hospitals)} hospitals, {plan.study.rounds} rounds, "
        f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for each patient, in {run.root}",
        markup=False,
    )
    masks, (_, lying) = plan.aggregation.masks, plan.coalition
    held = "no masks: the coordinator and one hospital could open an upload"
    if masks != "none":
        held = f"{masks} masks: no upload opens to a lying coordinator with {lying} hospital(s) on its side"
    out.print(f"Encrypted sums; {held}", markup=False)


def _start_foundation(run: RunFolder, parties: Parties) -> str:
    address = run.foundation / "address"
    arguments = ["foundation", "serve", "--model-file", str(run.teacher), "--listen", _LOOPBACK]
    parties.start("foundation", [*arguments, "--address-file", str(address)], run.foundation / "log.txt")
    return f"http://{_wait_for_address(address, parties, 'foundation')}"


def _start_coordinator(run: RunFolder, parties: Parties) -> str:
    arguments = ["coordinator", "serve", "--folder", str(run.coordinator), "--plan", str(run.plan)]
    parties.start("coordinator", [*arguments, "--listen", _LOOPBACK], run.coordinator / "log.txt")
    return _wait_for_address(run.coordinator / "address", parties, "coordinator")


def _start_hospital(run: RunFolder, parties: Parties, name: str, address: str) -> None:
    folder = run.hospital(name).root
    arguments = ["hospital", "join", "--folder", str(folder), "--plan", str(run.plan), "--coordinator", address]
    parties.start(name, arguments, folder / "log.txt")


def _wait_for_address(path: Path, parties: Parties, name: str) -> str:
    _wait_until(path.exists, lambda: parties.require_running(name), _START_SECONDS, f"{name} did not start")
    return path.read_text(encoding="ascii").strip()


def _wait_until(done: Callable[[], bool], check: Callable[[], None], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        check()
        if time.monotonic() > deadline:
            raise ProcessFailed(message)
        time.sleep(_LOOK_EVERY_SECONDS)


def _watch(run: RunFolder, plan: StudyPlan, parties: Parties, out: Console) -> None:
    """Until every hospital has ended: show progress, sample memory, and notice a party that failed.

    One hospital that fails does not end the study (the others go on as long as the quorum holds); the coordinator's
    failure, or a study that ended under its quorum, does.
    """
    names = [h.name for h in plan.hospitals]
    failed: set[str] = set()
    with make_progress(run, plan, out) as progress:

        def look() -> None:
            parties.sample_memory()
            parties.require_running("coordinator")
            progress.update()
            for name in names:
                if name not in failed and parties.parties[name].process.poll() not in (None, 0):
                    failed.add(name)
                    progress.note(f"{name} left the study:\n{parties.parties[name].tail(2)}")

        def ended() -> bool:
            return all(parties.parties[name].process.poll() is not None for name in names)

        _wait_until(ended, look, _STUDY_SECONDS, "the study took too long")
        progress.update()
    if len(names) - len(failed) < plan.aggregation.minimum_cohort:
        raise UnderQuorum(
            f"{len(failed)} of {len(names)} hospitals failed: {', '.join(sorted(failed))}",
            f"See log.txt in each folder under {run.root / 'hospitals'}.",
        )
