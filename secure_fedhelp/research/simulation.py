"""A whole study in one process: the deployed coordinator and hospitals, with a channel in memory between them.

Every hospital is a thread with its own folder, keys, policy, ledger and vault, as in a deployment, and runs
``hospital.taking_part``; the coordinator is its own service and keeper. Sums are encrypted and masked as the plan says,
uploads are signed, the transcript is checked, and the run can be audited like any other. What is simulated is only what
lies between machines: TLS and HTTP/2. Noise comes from the study's seed, so that a run can be made again; the ledgers
say so.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from secure_fedhelp.coordinator.server import in_memory
from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.errors import FedHelpError, StudyEnded, UnderQuorum
from secure_fedhelp.hospital.taking_part import take_part
from secure_fedhelp.hospital.world import World
from secure_fedhelp.learning.trial import try_networks
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.demo_setup import (
    TEACHERS,
    RunFolder,
    create_consortium,
    create_run_folder,
    lock_run,
    write_hospitals,
    write_plan,
    write_teachers,
)
from secure_fedhelp.research.fitness import require_fit
from secure_fedhelp.research.foundation_server import Foundation, Refused
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.progress import StudyProgress, make_progress, rounds_published
from secure_fedhelp.research.records_table import print_records
from secure_fedhelp.research.report import write_report
from secure_fedhelp.research.results import collect
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.summary import Summary, cut_short, failing_with, write_summary
from secure_fedhelp.research.teacher import Teacher
from secure_fedhelp.research.waiting import Waiting
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.memory import MemoryChannel

#: Nothing listens there: the policy must name an address, and the transport answers for it.
_FOUNDATION_URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2")
_LOOK_EVERY_SECONDS = 0.2


@dataclass(eq=False)
class _Hospital:
    """One hospital's thread, and what it raised."""

    name: str
    thread: threading.Thread
    error: FedHelpError | None = None


def simulate(
    study: StudyFile,
    data_dir: Path | None,
    out: Path,
    overwrite: bool,
    screen: Console,
    progress: Progress = silent,
    show: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Run the study and leave ``summary.json`` and ``report.html`` in the run directory ``out``.

    Raises named errors for bad settings before anything starts. If the study ends without its rounds, or too few
    hospitals come through, the result is written and shown (``show``) all the same before the error is raised.
    """
    data = study_data(study, data_dir, progress)
    plan = study_plan(study, data)
    print_records(plan, data, screen)
    require_fit(study, data)
    try_networks(plan)
    run = create_run_folder(out, overwrite)
    lock = lock_run(run.root)
    try:
        started, failure = time.monotonic(), None
        try:
            run_simulation(run, plan, data, screen)
        except StudyEnded as error:
            failure = error
        wall, memory = time.monotonic() - started, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with failing_with(failure):
            summary = collect(run, plan, study.label, wall, memory, data)
        write_summary(run.root / "summary.json", summary)
        write_report(summary, run.root / "report.html")
        show(summary)
        if failure is not None:
            raise failure
        return summary
    finally:
        os.close(lock)


def run_simulation(
    run: RunFolder, plan: StudyPlan, data: StudyData, screen: Console, rivals: bool = True, everybody: bool = False
) -> None:
    """All parties of one study in this process, until every hospital has ended.

    With ``rivals`` hospitals also train what they could have had alone, as in every study in research mode. Where
    ``everybody`` is needed, the study ends as soon as one hospital has failed; else the others go on, if they are
    enough. Nobody waits for one that has failed. Raises the error that the study ended with, if it ended without its
    rounds, and UnderQuorum if too few hospitals came through.
    """
    write_plan(run.plan, plan)
    create_consortium(run, plan, time.time())
    teachers = write_teachers(run, plan, data.references)
    urls = _FOUNDATION_URLS[: len(teachers)]
    write_hospitals(run, plan, data, urls, noise_seed=research_seed(plan), rivals=rivals)
    told, waiting = _log(run.coordinator / "log.txt"), Waiting(plan)
    with in_memory(run.coordinator, plan, waiting.clock, told, run.key_file("coordinator")) as service:
        hospitals = [_start(run, plan, h.name, waiting.of(service, h.name), teachers) for h in plan.hospitals]
        with make_progress(run, plan, screen) as progress:
            failed = _until_all_have_ended(hospitals, waiting, progress, everybody)
            progress.update()
        ended = service.ended_error()
    if failed and everybody:
        first = failed[0].error
        reason = f"{failed[0].name} left a study that needs every hospital: {first.message if first else ''}"
        raise UnderQuorum(reason) from first
    failure = _failure(plan, hospitals, ended)
    cause = cut_short(plan, rounds_published(run), failure or ended) or failure
    if cause is not None:
        raise cause


def _failure(plan: StudyPlan, hospitals: Sequence[_Hospital], ended: FedHelpError | None) -> FedHelpError | None:
    """UnderQuorum, or what the study ended with, if too few hospitals came through: with those whose own error it was,
    and not those that were only told of the end."""
    failed = [h for h in hospitals if h.error is not None]
    if len(hospitals) - len(failed) >= plan.aggregation.minimum_cohort:
        return None
    own = [h for h in failed if not isinstance(h.error, StudyEnded)]
    why = "; ".join(f"{h.name}: {h.error.message}" for h in own if h.error is not None)
    what = ended.message if ended is not None else f"{len(failed)} of {len(hospitals)} hospitals failed"
    error = (UnderQuorum if ended is None else type(ended))(f"{what}. {why}" if why else what)
    error.__cause__ = (own or failed)[0].error
    return error


def _until_all_have_ended(
    hospitals: Sequence[_Hospital], waiting: Waiting, progress: StudyProgress, everybody: bool
) -> list[_Hospital]:
    """Watch the hospitals' threads; those that failed, the first to do so first.

    Where ``everybody`` is needed the others are told to end after the first failure, and have not failed themselves.
    """
    failed: list[_Hospital] = []
    while living := [hospital for hospital in hospitals if hospital.thread.is_alive()]:
        living[0].thread.join(_LOOK_EVERY_SECONDS)
        progress.update()
        waiting.look([hospital.name for hospital in living])
        _note_failures(hospitals, failed, progress)
        if failed and everybody:
            waiting.end(f"the study needs every hospital, and {failed[0].name} left it")
            for hospital in hospitals:
                hospital.thread.join()
            return failed
    _note_failures(hospitals, failed, progress)
    return failed


def _note_failures(hospitals: Sequence[_Hospital], failed: list[_Hospital], progress: StudyProgress) -> None:
    for hospital in hospitals:
        if hospital.error is not None and hospital not in failed:
            failed.append(hospital)
            progress.note(f"{hospital.name} left the study: {hospital.error.message}")


def _log(path: Path) -> Callable[[str], None]:
    """What a party prints goes into its folder, where a process of its own would have it."""

    def say(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return say


def research_seed(plan: StudyPlan) -> str:
    """Of the hospitals' privacy noise: studies of one data set and seed have the same, so that they can be compared."""
    return f"{plan.study.name} {plan.study.seed}"


def _start(run: RunFolder, plan: StudyPlan, name: str, service: object, teachers: Sequence[Teacher]) -> _Hospital:
    world = World(
        dial=lambda credentials: MemoryChannel(service, credentials.certificate_pem),
        foundation=httpx.MockTransport(_foundation(teachers)) if teachers else None,
        comes_back=False,
    )
    folder = run.hospital(name).root
    say = _log(folder / "log.txt")

    def take() -> None:
        try:
            take_part(folder, run.plan, "127.0.0.1:1", say, run.key_file(name), world)
        except FedHelpError as error:
            hospital.error = error
        except Exception as error:
            hospital.error = FedHelpError(f"{type(error).__name__}: {error}", "This is a fault of code that it ran.")
            hospital.error.__cause__ = error
        if hospital.error is not None:
            say(f"{hospital.error.message}\n{hospital.error.hint}".rstrip())

    hospital = _Hospital(name, threading.Thread(target=take, name=name))
    hospital.thread.start()
    return hospital


def _foundation(teachers: Sequence[Teacher]) -> Callable[[httpx.Request], httpx.Response]:
    """The demonstration's foundation models, each at its address, answering the real client without a socket."""
    known = zip(_FOUNDATION_URLS, teachers, TEACHERS, strict=False)
    served = {httpx.URL(url).port: Foundation(teacher, name) for url, teacher, name in known}

    def answer(request: httpx.Request) -> httpx.Response:
        path, model = request.url.path, served[request.url.port]
        try:
            body = model.get(path) if request.method == "GET" else model.post(path, request.read())
        except Refused as refused:
            return httpx.Response(refused.status, json={"error": str(refused)})
        return httpx.Response(200, content=body, headers={"content-type": "application/json"})

    return answer
