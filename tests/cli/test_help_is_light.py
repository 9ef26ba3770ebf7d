"""Help answers at once, without the heavy packages, and shows an example of every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "opacus", "tenseal", "monai", "sklearn")

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
