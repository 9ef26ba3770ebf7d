"""Progress comes from files alone; on a terminal as bars, elsewhere as plain lines, each thing told once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from plans import example_plan
from rich.console import Console

from secure_fedhelp.hospital.status import read_status, write_status
from secure_fedhelp.research.demo_setup import RunFolder
from secure_fedhelp.research.progress import Bars, Lines, describe, make_progress, rounds_done, rounds_published

PLAN = example_plan()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    for hospital in PLAN.hospitals:
        folder.hospital(hospital.name).root.mkdir(parents=True)
    folder.coordinator.mkdir()
    return folder


def publish(run: RunFolder, rounds: int) -> None:
    (run.coordinator / "transcript.jsonl").write_bytes(b"{}\n" * rounds)


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100, highlight=False), text


def test_lines_tell_each_round_and_step_once(run: RunFolder) -> None:
    out, text = console(False)
    with make_progress(run, PLAN, out) as progress:
        assert isinstance(progress, Lines)
        progress.update()
        write_status(run.hospital("alpha").status, "joined", {})
        publish(run, 2)
        progress.update()
        progress.update()
        write_status(run.hospital("beta").status, "training", {"round": 1})
        write_status(run.hospital("gamma").status, "budget exhausted", {"round": 1})
        progress.update()
        progress.note("gamma [left]")
    lines = text.getvalue().splitlines()
    assert lines == [
        "round 1 of 4 published",
        "round 2 of 4 published",
        "alpha: joined",
        "gamma: budget exhausted",
        "gamma [left]",
    ]


def test_bars_show_every_hospital_and_its_step(run: RunFolder) -> None:
    out, text = console(True)
    with make_progress(run, PLAN, out) as progress:
        assert isinstance(progress, Bars)
        publish(run, 3)
        write_status(run.hospital("alpha").status, "absorbed", {"round": 2, "epsilon": 1.25})
        progress.update()
        progress.note("a note")
    shown = text.getvalue()
    assert "3/4" in shown
    assert "absorbed, epsilon 1.25 spent" in shown
    assert "starting" in shown
    assert "a note" in shown


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({}, 0),
        ({"step": "joined"}, 0),
        ({"step": "training", "round": 2}, 2),
        ({"step": "absorbed", "round": 2}, 3),
        ({"step": "done"}, 4),
        ({"step": "personalising"}, 4),
    ],
)
def test_rounds_behind_a_hospital(status: dict[str, object], done: int) -> None:
    assert rounds_done(status, 4) == done


def test_a_study_that_has_not_begun_has_published_nothing(run: RunFolder) -> None:
    assert rounds_published(run) == 0
    assert read_status(run.hospital("alpha").status) == {}
    assert describe({"step": "joined"}) == "joined"


def test_a_status_file_that_is_no_status_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("[1]", encoding="utf-8")
    assert read_status(path) == {}
    path.write_text("{", encoding="utf-8")
    assert read_status(path) == {}
