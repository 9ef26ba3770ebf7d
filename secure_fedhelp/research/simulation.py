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
from secure_fedhelp.coordinator.service import CoordinatorService
from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.errors import FedHelpError, UnderQuorum
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
from secure_fedhelp.research.foundation_server import Foundation, Refused
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.progress import make_progress
from secure_fedhelp.research.records_table import print_records
from secure_fedhelp.research.report import write_report
from secure_fedhelp.research.results import collect
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.summary import Summary, write_summary
from secure_fedhelp.research.teacher import Teacher
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.memory import MemoryChannel

#: Nothing listens there: the policy must name an address, and the transport answers for it.
_FOUNDATION_URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2")
_LOOK_EVERY_SECONDS = 0.2


@dataclass
class _Hospital:
    """One hospital's thread, and what it raised."""

    name: str
    thread: threading.Thread
    error: FedHelpError | None = None


def simulate(
    study: StudyFile, data_dir: Path | None, out: Path, overwrite: bool, screen: Console, progress: Progress = silent
) -> Summary:
    """Run the study and leave ``summary.json`` and ``report.html`` in the run directory ``out``.

    Raises named errors for bad settings before anything starts, and UnderQuorum if too few hospitals came through.
    """
    data = study_data(study, data_dir, progress)
    plan = study_plan(study, data)
    try_networks(plan)
    run = create_run_folder(out, overwrite)
    print_records(plan, data, screen)
    lock = lock_run(run.root)
    try:
        started = time.monotonic()
        run_simulation(run, plan, data, screen)
        wall, memory = time.monotonic() - started, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary = collect(run, plan, study.label, wall, memory, data)
        write_summary(run.root / "summary.json", summary)
        write_report(summary, run.root / "report.html")
        return summary
    finally:
        os.close(lock)


def run_simulation(run: RunFolder, plan: StudyPlan, data: StudyData, screen: Console, rivals: bool = True) -> None:
    """All parties of one study in this process, until every hospital has ended.

    With ``rivals`` hospitals also train what they could have had alone, as in every study in research mode.
    """
    write_plan(run.plan, plan)
    create_consortium(run, plan, time.time())
    teachers = write_teachers(run, plan, data.references)
    urls = _FOUNDATION_URLS[: len(teachers)]
    write_hospitals(run, plan, data, urls, noise_seed=research_seed(plan), rivals=rivals)
    told = _log(run.coordinator / "log.txt")
    with in_memory(run.coordinator, plan, time.time, told, run.key_file("coordinator")) as service:
        hospitals = [_start(run, plan, h.name, service, teachers) for h in plan.hospitals]
        with make_progress(run, plan, screen) as progress:
            for hospital in hospitals:
                while hospital.thread.is_alive():
                    hospital.thread.join(_LOOK_EVERY_SECONDS)
                    progress.update()
                if hospital.error is not None:
                    progress.note(f"{hospital.name} left the study: {hospital.error.message}")
            progress.update()
    failed = [h.name for h in hospitals if h.error is not None]
    if len(hospitals) - len(failed) < plan.aggregation.minimum_cohort:
        first = next(h.error for h in hospitals if h.error is not None)
        reason = f"{len(failed)} of {len(hospitals)} hospitals failed, {', '.join(failed)}: {first.message}"
        raise UnderQuorum(reason) from first


def _log(path: Path) -> Callable[[str], None]:
    """What a party prints goes into its folder, where a process of its own would have it."""

    def say(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return say


def research_seed(plan: StudyPlan) -> str:
    """Of the hospitals' privacy noise: studies of one data set and seed have the same, so that they can be compared."""
    return f"{plan.study.name} {plan.study.seed}"


def _start(
    run: RunFolder, plan: StudyPlan, name: str, service: CoordinatorService, teachers: Sequence[Teacher]
) -> _Hospital:
    world = World(
        dial=lambda credentials: MemoryChannel(service, credentials.certificate_pem),
        foundation=httpx.MockTransport(_foundation(teachers)) if teachers else None,
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
