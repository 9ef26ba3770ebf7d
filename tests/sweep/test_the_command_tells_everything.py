"""What ``sweep`` says on screen: differences of like with like, other runs of the folder, and every failure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweeps import Counting, figure, measured, runs
from typer.testing import CliRunner, Result

from secure_fedhelp.cli.main import app
from secure_fedhelp.cli.sweep import _difference, _print
from secure_fedhelp.errors import TrackingUnavailable
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.runs import Run
from secure_fedhelp.research.sweep.statistics import Estimate


def printed(*contenders: str) -> dict[tuple[str, str], str]:
    """The last column of the small hospitals' table, by method and model."""
    asked = runs(*contenders, seeds=1)
    screen = Console(width=160, record=True, file=io.StringIO())
    _print(screen, asked, [measured(run) for run in asked], list(contenders))
    text = screen.export_text()
    rows = [line.split("│") for line in text[text.index("small hospitals") :].splitlines() if line.startswith("│")]
    return {(row[1].strip(), row[2].strip()): row[4].strip() for row in rows}


def wanted(one: tuple[str, str], two: tuple[str, str]) -> str:
    (name, model), (other, base) = one, two
    mine, theirs = figure(runs(name, seeds=1)[0], "small", model), figure(runs(other, seeds=1)[0], "small", base)
    return f"{mine - theirs:+.3f} (one seed)"


def test_like_is_compared_with_like_and_only_the_reference_is_blank() -> None:
    found = printed("fedhelp", "fedavg", "no-logits", "local-dp", "local", "pooled")
    assert found.pop(("fedhelp", "shared")) == found.pop(("fedhelp", "personal")) == ""
    bases = {"local-dp": "shared", "local": "personal", "pooled": "personal"}
    assert found == {row: wanted(row, ("fedhelp", bases.get(row[0], row[1]))) for row in found}
    assert len(found) == 7


def test_with_a_rival_first_everything_is_compared_with_it() -> None:
    found = printed("local", "fedhelp", "local-dp")
    assert found.pop(("local", "local")) == ""
    assert found == {row: wanted(row, ("local", "local")) for row in found}
    assert len(found) == 3


def test_what_had_other_patients_is_not_compared() -> None:
    found = printed("fedhelp", "small-alone", "no-logits")
    assert found["small-alone", "personal"] == "other data"
    assert found["no-logits", "personal"].startswith(("+", "-"))


def test_a_difference_of_nothing_is_shown() -> None:
    """Zero is a result, and blank is none."""
    assert _difference(Estimate(0.0, 0.0, 0.0)) == "+0.000 [+0.000, +0.000]"
    assert _difference(None) == ""


def swept(
    folder: Path, engine: Any, methods: str | None, monkeypatch: pytest.MonkeyPatch, *more: str, keys: str = ""
) -> Result:
    monkeypatch.setattr("secure_fedhelp.research.sweep.engines.processes", lambda given, jobs: engine(given))
    study = folder / "study.toml"
    study.write_text(f'name = "quick"\ndataset = "breast-cancer"\nrounds = 1\n{keys}', encoding="utf-8")
    words = ["sweep", str(study), "--seeds", "2", "--no-encryption", "--out", str(folder / "out")]
    return CliRunner().invoke(app, [*words, *([] if methods is None else ["--methods", methods]), *more])


def measuring(given: Sequence[Run]) -> Iterator[Outcome]:
    for run in given:
        yield Outcome(run, measured(run))


def test_other_runs_of_the_folder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "other finished" not in swept(tmp_path, measuring, "fedhelp", monkeypatch).output
    assert "2 other finished run(s)" in swept(tmp_path, measuring, "fedavg", monkeypatch).output


def test_the_files_epsilon_is_swept_unless_budgets_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def engine(given: Sequence[Run]) -> Iterator[Outcome]:
        asked.extend(run.epsilon for run in given)
        return measuring(given)

    for number, (keys, more) in enumerate([("epsilon = 2\n", ()), ("", ()), ("epsilon = 2\n", ("--epsilon", "1,4"))]):
        (tmp_path / str(number)).mkdir()
        assert swept(tmp_path / str(number), engine, "fedavg", monkeypatch, *more, keys=keys).exit_code == 0
    assert asked == [2, 2, 3, 3, 1, 4, 1, 4]


def test_a_failed_run_and_a_failed_log_are_both_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Log:
        failure = TrackingUnavailable("MLflow at there: the disk is full")

        def __call__(self, result: object) -> None: ...

    monkeypatch.setattr("secure_fedhelp.cli.sweep._log", lambda uri, study: Log())
    done = swept(tmp_path, Counting(fails="fedavg"), "fedhelp,fedavg", monkeypatch)
    assert "2 run(s) failed; start the sweep again" in done.output
    assert isinstance(done.exception, TrackingUnavailable)
    Log.failure = None  # type: ignore[assignment]
    assert swept(tmp_path, Counting(fails="fedavg"), "fedhelp,fedavg", monkeypatch).exit_code == 1


@pytest.mark.parametrize(("keys", "first"), [("", "fedhelp"), ('[method]\nname = "prr"\n', "prr")])
def test_the_files_method_is_swept_unless_methods_are_given(
    keys: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def engine(given: Sequence[Run]) -> Iterator[Outcome]:
        asked.extend(run.contender for run in given)
        return measuring(given)

    assert swept(tmp_path, engine, None, monkeypatch, keys=keys).exit_code == 0
    assert asked == 2 * [first, "fedavg", "local-dp", "local-dp-warm", "local", "local-warm"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--ray-address", "cluster:6379"), "needs --engine ray"),
        (("--engine", "ray", "--jobs", "3"), "the cluster says how many"),
    ],
)
def test_an_option_of_the_other_engine_is_refused_not_ignored(
    given: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = swept(tmp_path, measuring, "fedhelp", monkeypatch, *given)
    assert refused.exit_code == 2
    assert reason in " ".join(refused.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_where_there_is_no_terminal_each_line_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = swept(tmp_path, measuring, "fedhelp", monkeypatch).output
    assert "seed 2\n" not in said, "no bar in a log"
    lines = [line for line in said.splitlines() if "done:" in line]
    assert "fedhelp, epsilon 3, seed 1 (1 of 2" in lines[0]
    assert "fedhelp, epsilon 3, seed 2 (2 of 2)" in lines[1]
