"""What docs/adding-a-method.md says of trying a method: its package, its study file and its sweep work as printed."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks

import secure_fedhelp

SOURCE = Path(secure_fedhelp.__file__).parents[1]


def printed(language: str, mark: str) -> str:
    (found,) = (block for block in blocks(SOURCE / "docs" / "adding-a-method.md", language) if mark in block)
    return found


@pytest.mark.end
def test_the_printed_package_study_file_and_sweep(tmp_path: Path) -> None:
    package = tmp_path / "elsewhere" / "lung_methods"
    package.mkdir(parents=True)
    (package / "answers.py").write_text(printed("python", "class AnswersOnly"), encoding="utf-8")
    # The one data set that comes along.
    study = printed("toml", 'dataset = "heart"').replace('"heart"', '"breast-cancer"')
    (tmp_path / "study.toml").write_text("rounds = 2\n" + study, encoding="utf-8")
    (line,) = (line for line in printed("console", "imported").splitlines() if " sweep " in line)
    command = [sys.executable, "-m", "secure_fedhelp", *shlex.split(line.removeprefix("$ secure-fedhelp "))]
    command += ["--epsilon", "3", "--seeds", "1", "--jobs", "1"]

    def sweep(*path: Path) -> subprocess.CompletedProcess[str]:
        here = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        return subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=240, check=False)

    lost = sweep(SOURCE)
    assert lost.returncode != 0
    assert "lung_methods" in lost.stdout + lost.stderr
    done = sweep(SOURCE, package.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "runs" / "answers-sweep" / "results.csv").open(encoding="utf-8", newline="") as rows:
        found = {row["contender"]: row for row in csv.DictReader(rows)}
    assert set(found) == {"imported", "fedavg", "local"}
    assert float(found["imported"]["small_shared_auroc"]) > 0.5
    assert float(found["imported"]["bytes_up"]) < float(found["fedavg"]["bytes_up"])
