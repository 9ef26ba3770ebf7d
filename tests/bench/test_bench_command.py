"""The command: results on standard output and in the file, progress beside them, and errors before the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secure_fedhelp.research.bench.results import read_results

QUICK = ["--hospitals", "3", "--profile", "compact", "--transport", "none", "--repeat", "1"]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "secure_fedhelp", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_aggregation_measures_and_writes_everything_it_was_asked_for(tmp_path: Path) -> None:
    files = ["--json", tmp_path / "out" / "bench.json", "--plot", tmp_path / "out" / "bench.html"]
    done = bench("aggregation", "--values", 2000, *QUICK, *files)
    assert done.returncode == 0, done.stderr
    assert "2,000 values, 3 hospitals" in done.stdout
    assert "compact masked" in done.stdout
    assert "repeat 1" not in done.stdout
    results = read_results(tmp_path / "out" / "bench.json")
    assert [(r.profile, r.masks) for r in results] == [("compact", "repairing"), ("compact", "none"), (None, None)]
    assert (tmp_path / "out" / "bench.html").stat().st_size > 10**6  # with Plotly's JavaScript


def test_sweep_measures_two_axes(tmp_path: Path) -> None:
    files = ["--json", tmp_path / "sweep.json", "--html", tmp_path / "sweep.html"]
    sizes = ["--values", 10_000, "--largest-values", 10_000, "--largest-hospitals", 5]
    quick = ["--hospitals", "5", *QUICK[2:], "--no-masks"]
    done = bench("sweep", *sizes, *quick, *files)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "sweep.json")
    assert {(r.values, r.hospitals) for r in results} == {(10_000, 2), (10_000, 5)}
    assert (tmp_path / "sweep.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--profile", "enormous"], 2, "InvalidPlan"),
        (["--peer-python", "nvflare=/no/such/python"], 2, "is no program"),
        (["--peer-python", f"flower={sys.executable}"], 2, "pip install 'flwr'"),
        (["--hospitals", "2"], 2, "masks for two hospitals"),
        (["--values", "100000000000"], 6, "TooLittleMemory"),
    ],
)
def test_what_cannot_work_is_said_first_and_writes_nothing(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = bench("aggregation", *arguments, "--json", tmp_path / "bench.json")
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bench.json").exists()


def test_a_place_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    done = bench("aggregation", *QUICK, "--json", tmp_path)
    assert done.returncode == 6
    assert "cannot write" in done.stderr
