"""Progress of a study for a person: a bar and each hospital's step on a terminal, plain log lines otherwise."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from secure_fedhelp.hospital.status import read_status
from secure_fedhelp.research.demo_setup import RunFolder
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import TRANSCRIPT, read_lines


class StudyProgress(Protocol):
    """What the demonstration needs: a context that is updated now and then and takes notes."""

    def __enter__(self) -> StudyProgress: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def update(self) -> None: ...
    def note(self, text: str) -> None: ...


def make_progress(run: RunFolder, plan: StudyPlan, out: Console) -> StudyProgress:
    """Bars if ``out`` is a terminal, log lines otherwise."""
    return Bars(run, plan, out) if out.is_terminal else Lines(run, plan, out)


def rounds_published(run: RunFolder) -> int:
    """Rounds in the coordinator's transcript so far."""
    path = run.coordinator / "transcript.jsonl"
    return sum(1 for _ in read_lines(path, TRANSCRIPT)) if path.exists() else 0


class Bars:
    """One bar for the rounds, one line a hospital for its step and its epsilon."""

    def __init__(self, run: RunFolder, plan: StudyPlan, out: Console) -> None:
        self._run, self._plan = run, plan
        columns = (TextColumn("{task.description:<12}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[step]}"), console=out)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        total = self._plan.study.rounds
        self._tasks["rounds"] = self._progress.add_task("rounds", total=total, step="")
        for hospital in self._plan.hospitals:
            self._tasks[hospital.name] = self._progress.add_task(hospital.name, total=total, step="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self) -> None:
        self._progress.update(self._tasks["rounds"], completed=rounds_published(self._run))
        for hospital in self._plan.hospitals:
            status = read_status(self._run.hospital(hospital.name).status)
            if not status:
                continue
            fields: dict[str, object] = {"step": describe(status)}
            done = rounds_done(status, self._plan.study.rounds)
            self._progress.update(self._tasks[hospital.name], completed=done, **fields)  # type: ignore[arg-type]  # its fields are Any by name

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)


class Lines:
    """One line whenever a round is published or a hospital's step at the start or the end changes."""

    def __init__(self, run: RunFolder, plan: StudyPlan, out: Console) -> None:
        self._run, self._plan, self._out = run, plan, out
        self._published = 0
        self._steps: dict[str, str] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self) -> None:
        published = rounds_published(self._run)
        for number in range(self._published, published):
            self._out.print(f"round {number + 1} of {self._plan.study.rounds} published", markup=False)
        self._published = published
        for hospital in self._plan.hospitals:
            step = str(read_status(self._run.hospital(hospital.name).status).get("step", ""))
            if step != self._steps.get(hospital.name) and step in _WORTH_A_LINE:
                self._out.print(f"{hospital.name}: {step}", markup=False)
            self._steps[hospital.name] = step

    def note(self, text: str) -> None:
        self._out.print(text, markup=False)


_WORTH_A_LINE = ("joined", "resumed", "budget exhausted", "too late", "personalising", "done")


def describe(status: dict[str, object]) -> str:
    """A hospital's status in a few words."""
    step = str(status.get("step", ""))
    if isinstance(status.get("epsilon"), float):
        return f"{step}, epsilon {status['epsilon']:.2f} spent"
    return step


def rounds_done(status: dict[str, object], rounds: int) -> int:
    """Rounds this hospital has behind it."""
    if status.get("step") in ("finished", "personalising", "baselines", "done"):
        return rounds
    number = status.get("round")
    if not isinstance(number, int):
        return 0
    return number + 1 if status.get("step") == "absorbed" else number
