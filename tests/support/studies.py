"""A small real study for tests: real folders, certificates and data, the real coordinator process, real hospitals.

Hospitals run as threads of the test (fast: torch is imported once) or as processes of their own (to be killed).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secure_fedhelp.hospital.taking_part import take_part
from secure_fedhelp.learning.models import parameter_count
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.demo_setup import (
    RunFolder,
    create_consortium,
    create_run_folder,
    write_hospitals,
    write_plan,
)
from secure_fedhelp.research.plans import build_plan
from secure_fedhelp.research.processes import Parties
from secure_fedhelp.study.plan import StudyPlan, parse_plan

#: A test waits at most this long for something that normally takes seconds.
PATIENCE_SECONDS = 120.0


def quick_plan(data: StudyData, rounds: int = 2, **changes: Any) -> StudyPlan:
    """The embedded study with few rounds and short training at home; ``section__key=value`` replaces values."""
    values = build_plan("breast-cancer", data, rounds, 3.0, 1).model_dump(mode="json")
    values["learning"] |= {"pupil_steps": 2, "personal_steps": 2, "warm_steps": 2, "public_steps": 1}
    values["aggregation"] |= {"round_deadline_seconds": 60.0, "gather_deadline_seconds": 60.0}
    for path, value in changes.items():
        section, key = path.split("__")
        values[section][key] = value
    shape, classes = values["data"]["input_shape"], len(values["data"]["classes"])
    values["channels"][0]["length"] = parameter_count(values["model"]["small"], shape, classes)
    return parse_plan(values)


@dataclass
class Study:
    """One study in a folder, its parties, and what the hospitals' threads raised."""

    run: RunFolder
    plan: StudyPlan
    data: StudyData
    parties: Parties
    address: str = ""
    errors: dict[str, BaseException] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    threads: dict[str, threading.Thread] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [h.name for h in self.plan.hospitals]

    def start_coordinator(self) -> None:
        """Start it, or start it again at the address it had."""
        listen = self.address or "127.0.0.1:0"
        address = self.run.coordinator / "address"
        address.unlink(missing_ok=True)
        folder, plan = str(self.run.coordinator), str(self.run.plan)
        arguments = ["coordinator", "serve", "--folder", folder, "--plan", plan, "--listen", listen]
        self.parties.start("coordinator", arguments, self.run.coordinator / "log.txt")
        wait_until(address.exists, lambda: self.parties.require_running("coordinator"))
        self.address = address.read_text(encoding="ascii").strip()

    def kill(self, name: str) -> None:
        process = self.parties.parties[name].process
        process.kill()
        process.wait()

    def start_thread(self, name: str, coordinator_patience: float = 60.0) -> None:
        """One hospital in a thread; an error it ends with is kept in :attr:`errors`."""
        lines = self.said.setdefault(name, [])

        def body() -> None:
            try:
                take_part(self.run.hospital(name).root, self.run.plan, self.address, lines.append)
            except BaseException as error:
                self.errors[name] = error

        self.threads[name] = threading.Thread(target=body, name=name, daemon=True)
        self.threads[name].start()

    def start_process(self, name: str) -> None:
        folder = self.run.hospital(name).root
        arguments = ["hospital", "join", "--folder", str(folder), "--plan", str(self.run.plan)]
        self.parties.start(name, [*arguments, "--coordinator", self.address], folder / "log.txt")

    def join_threads(self) -> None:
        """Wait for every hospital thread; the first error a hospital ended with is raised."""
        for name, thread in self.threads.items():
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), f"{name} hangs after {self.said[name][-3:]}"
        for error in self.errors.values():
            raise error

    def entries(self) -> list[dict[str, Any]]:
        """The transcript's entries so far."""
        path = self.run.coordinator / "transcript.jsonl"
        if not path.exists():
            return []
        return [json.loads(line)["entry"] for line in path.read_text(encoding="utf-8").splitlines()]

    def ledger(self, name: str) -> list[dict[str, Any]]:
        """The releases in a hospital's ledger."""
        path = self.run.hospital(name).ledger
        if not path.exists():
            return []
        entries = [json.loads(line)["entry"] for line in path.read_text(encoding="utf-8").splitlines()]
        return [entry for entry in entries if entry["kind"] == "release"]

    def cohorts(self) -> list[set[str]]:
        return [{u["header"]["hospital"] for u in entry["cohort"]} for entry in self.entries()]


def wait_until(done: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Poll until ``done``; fails the test after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        check()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@contextmanager
def study(folder: Path, rounds: int = 2, hospitals: tuple[str, ...] = (), **changes: Any) -> Iterator[Study]:
    """A study set up in ``folder`` with nothing started yet; every process is ended on the way out.

    ``hospitals`` are those of the embedded study that take part; all six if none is named.
    """
    data = prepare("breast-cancer", None, 1)
    data = replace(data, hospitals={name: data.hospitals[name] for name in hospitals or data.hospitals})
    plan = quick_plan(data, rounds, **changes)
    run = create_run_folder(folder, overwrite=False)
    write_plan(run.plan, plan)
    create_consortium(run, plan, time.time())
    write_hospitals(run, plan, data, [])
    with Parties() as parties:
        yield Study(run, plan, data, parties)
