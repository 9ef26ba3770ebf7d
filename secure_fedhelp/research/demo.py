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
from secure_fedhelp.errors import FedHelpError, UnderQuorum
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
from secure_fedhelp.research.summary import cut_short, failing_with, write_summary
from secure_fedhelp.research.table import print_table
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import LOG, STATUS, read_bounded, read_end
from secure_fedhelp.study.threshold import Masks
from secure_fedhelp.wire.messages import ENDED_WORDS, reason_error

_LOOPBACK = "127.0.0.1:0"
_START_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.2
_STUDY_SECONDS = 3600.0
#: How long the others may take to end after the coordinator or too many hospitals have failed.
_END_SECONDS = 30.0


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

    Raises named errors for bad settings before anything is started. If the study ends without its rounds, or too few
    hospitals come through, what there is of a result is shown first; then the error that the study ended with is
    raised, UnderQuorum or ProcessFailed if it had none.
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
        failure = _watch(run, plan, parties, out)
        wall = time.monotonic() - started
    with failing_with(failure):
        summary = collect(run, plan, settings.dataset, wall, parties.peak_memory_bytes, data)
    write_summary(run.root / "summary.json", summary)
    write_report(summary, run.root / "report.html")
    print_table(summary, out)
    out.print(f"\nReport: {run.root / 'report.html'}   Summary: {run.root / 'summary.json'}", markup=False)
    out.print(f"Check it yourself: secure-fedhelp audit verify {run.root}", markup=False)
    cause = cut_short(plan, summary.rounds, _told_end(run) or failure) or failure
    if cause is not None:
        raise cause


def _told_end(run: RunFolder) -> FedHelpError | None:
    """The error that the coordinator says the study ended with, by its log."""
    lines = read_end(run.coordinator / "log.txt", LOG).decode("utf-8", errors="replace").splitlines()
    reasons = [line.partition(ENDED_WORDS)[2] for line in lines if ENDED_WORDS in line]
    return reason_error(reasons[-1]) if reasons else None


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
    return read_bounded(path, STATUS).decode("ascii").strip()


def _wait_until(done: Callable[[], bool], check: Callable[[], None], seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        check()
        if time.monotonic() > deadline:
            raise ProcessFailed(message)
        time.sleep(_LOOK_EVERY_SECONDS)


def _watch(run: RunFolder, plan: StudyPlan, parties: Parties, out: Console) -> FedHelpError | None:
    """Until every hospital has ended: show progress, sample memory, and notice a party that failed.

    One hospital that fails does not end the study (the others go on as long as the quorum holds). Where the coordinator
    has failed, or too few hospitals are left, the others have some seconds to end by themselves. Returns what failed.
    """
    names, seen = [h.name for h in plan.hospitals], _Failures(plan, parties, run)
    with make_progress(run, plan, out) as progress:

        def look() -> None:
            parties.sample_memory()
            progress.update()
            for name in seen.look():
                progress.note(f"{name} left the study:\n{parties.parties[name].tail(2)}")

        def ended() -> bool:
            over = all(parties.parties[name].process.poll() is not None for name in names)
            return over or seen.hopeless(time.monotonic())

        _wait_until(ended, look, _STUDY_SECONDS, "the study took too long")
        look()  # those that ended since the last look too
    return seen.error()


class _Failures:
    """Which parties have ended with an error, and whether that leaves too few."""

    def __init__(self, plan: StudyPlan, parties: Parties, run: RunFolder) -> None:
        self._plan, self._parties, self._run = plan, parties, run
        self._names = [h.name for h in plan.hospitals]
        self._failed: list[str] = []
        self._since: float | None = None

    def look(self) -> list[str]:
        """Hospitals that have failed since the last look."""
        new = [name for name in self._names if name not in self._failed and self._code(name) not in (None, 0)]
        self._failed += new
        return new

    def hopeless(self, now: float) -> bool:
        """Whether the study cannot go on any more, and has not for some seconds (of a clock that only goes forward)."""
        if not self._too_few and self._code("coordinator") in (None, 0):
            return False
        self._since = now if self._since is None else self._since
        return now - self._since > _END_SECONDS

    def error(self) -> FedHelpError | None:
        if self._too_few:
            return UnderQuorum(
                f"{len(self._failed)} of {len(self._names)} hospitals failed: {', '.join(sorted(self._failed))}",
                f"See log.txt in each folder under {self._run.root / 'hospitals'}.",
            )
        try:
            self._parties.require_running("coordinator")
        except ProcessFailed as error:
            return error
        return None

    @property
    def _too_few(self) -> bool:
        return len(self._names) - len(self._failed) < self._plan.aggregation.minimum_cohort

    def _code(self, name: str) -> int | None:
        return self._parties.parties[name].process.poll()
