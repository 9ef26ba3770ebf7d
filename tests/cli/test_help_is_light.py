"""Help answers at once, without the heavy packages, and shows an example of every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "opacus", "tenseal", "monai", "sklearn", "ray", "mlflow")

LIST_COMMANDS = """
import typer
from secure_fedhelp.cli.main import app
def walk(command, path):
    print(" ".join(path))
    for name, sub in getattr(command, "commands", {}).items():
        walk(sub, [*path, name])
walk(typer.main.get_command(app), [])
"""


def commands() -> list[list[str]]:
    done = subprocess.run([sys.executable, "-c", LIST_COMMANDS], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Every command's help text, all from one process that fails if a heavy package gets imported."""
    program = (
        "import sys, contextlib, io\n"
        "from secure_fedhelp.cli.main import app\n"
        f"for words in {commands()!r}:\n"
        "    print('=== ' + ' '.join(words))\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        app([*words, '--help'])\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("=== ")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def test_every_command_answers_help_with_an_example(helps: dict[str, str]) -> None:
    assert len(helps) >= 12
    for name, text in helps.items():
        assert "Usage:" in text, name
        assert "Example: secure-fedhelp" in text, name


@pytest.mark.parametrize("words", [["--help"], ["demo", "--help"], ["hospital", "join", "--help"]])
def test_help_ends_with_exit_zero(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "secure_fedhelp", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secure_fedhelp", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("secure-fedhelp ")


def test_a_terminal_without_utf_8_gets_question_marks_and_no_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "secure_fedhelp"]
    folder = str(tmp_path / "authority")
    for arguments in (["consortium", "init", folder, "--name", "north"], ["consortium", "list", "--authority", folder]):
        done = subprocess.run([*words, *arguments], capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["hospital", "coordinator"])
def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = str(tmp_path / "file" / "inside")
    arguments = [command, "init", "--folder", folder, "--consortium", "north", "--name", "a"]
    done = subprocess.run(
        [sys.executable, "-m", "secure_fedhelp", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert "StorageError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_is_not_recorded_as_issued_when_it_cannot_be_written(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "secure_fedhelp", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    run("consortium", "init", tmp_path / "authority", "--name", "north")
    run("hospital", "init", "--folder", tmp_path / "a", "--consortium", "north", "--name", "a")
    sign = ["consortium", "sign", tmp_path / "a" / "keys" / "tls.csr", "--authority", tmp_path / "authority"]
    sign += ["--role", "hospital", "--name", "a", "--out"]
    assert run(*sign, tmp_path / "nowhere" / "a.crt").returncode == 6
    assert run(*sign, tmp_path / "a.crt").returncode == 0
