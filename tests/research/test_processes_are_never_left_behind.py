"""Children of a demonstration end with it, whatever they do, and a failed one is told with its last lines."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from studies import wait_until

from secure_fedhelp.research.processes import Parties, ProcessFailed


def start_python(parties: Parties, tmp_path: Path, name: str, program: str) -> None:
    """Start a Python program in place of the command line, through the same code."""
    parties.program = (sys.executable, "-c", program)
    parties.start(name, [], tmp_path / f"{name}.log")


def test_a_child_that_ignores_the_request_to_end_is_ended(tmp_path: Path) -> None:
    program = (
        "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f'pathlib.Path("{tmp_path}/ready").touch(); time.sleep(600)'
    )
    with Parties() as parties:
        start_python(parties, tmp_path, "stubborn", program)
        process = parties.parties["stubborn"].process
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
        assert parties.running() == ["stubborn"]
        assert parties.sample_memory() > 2**20
        parties.stop_all(patience_seconds=0.2)
    assert process.poll() is not None


def test_a_failed_child_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with Parties() as parties:
        start_python(parties, tmp_path, "broken", 'print("the reason"); raise SystemExit(3)')
        parties.parties["broken"].process.wait()
        with pytest.raises(ProcessFailed, match="the reason") as caught:
            parties.require_running("broken")
        assert "exit code 3" in caught.value.message
        assert "broken.log" in caught.value.hint


def test_a_child_that_ended_well_is_no_failure(tmp_path: Path) -> None:
    with Parties() as parties:
        start_python(parties, tmp_path, "fine", "pass")
        parties.parties["fine"].process.wait()
        parties.require_running("fine")
        assert parties.running() == []
        assert parties.sample_memory() > 0


ORPHANS = """
import signal, sys, time
from pathlib import Path
from secure_fedhelp.research import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with it ignored
with processes.Parties(program=(sys.executable, "-c", "import time; time.sleep(600)")) as parties:
    party = parties.start("child", [], Path(sys.argv[1]))
    print(party.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_however_the_demonstration_ends_its_children_end_too(tmp_path: Path, number: int) -> None:
    arguments = [sys.executable, "-c", ORPHANS, str(tmp_path / "log")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as demo:
        assert demo.stdout is not None
        child = int(demo.stdout.readline())
        demo.send_signal(number)
        demo.wait(20)
        wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in status_of(child))
        assert demo.returncode != 0


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
