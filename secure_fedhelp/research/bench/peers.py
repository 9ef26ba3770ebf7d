"""Other projects' rounds: scripts of ours in benchmarks/, run by the Python of an environment that has the project.

Each prints one line of JSON, last of its output, as :class:`PeerLine` describes it. Nothing of a peer is installed
here: its packages want other versions of what this project pins.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from secure_fedhelp.errors import FedHelpError, InvalidConfiguration
from secure_fedhelp.research.bench.results import Seconds, Stage
from secure_fedhelp.research.bench.settings import Setting
from secure_fedhelp.research.bench.stopwatch import Round
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.sections import Strict

#: A peer's name on the command line: the module that its environment must have, and what to give to pip for it.
PACKAGES: Final = {"nvflare": ("nvflare.app_opt.he.decomposers", "nvflare[HE]"), "flower": ("flwr", "flwr")}
SCRIPTS: Final = Path(__file__).resolve().parents[3] / "benchmarks"
_IMPORT_SECONDS, _ROUND_SECONDS = 120, 3600
_TAIL = 300


class PeerFailed(FedHelpError):
    """A peer's script did not do what it was asked."""

    exit_code = 5
    default_hint = "Run the command in the message by hand to see all it says."


class PeerLine(Strict):
    """What a peer's script says of one round; figures as in results.Result."""

    system: Annotated[str, Field(min_length=1, max_length=64)]
    seconds: Annotated[dict[Stage, Seconds], Field(min_length=1)]
    up_bytes_per_value: Annotated[float, Field(gt=0)]
    down_bytes_per_value: Annotated[float, Field(gt=0)]
    max_error: Annotated[float, Field(ge=0)]
    coordinator_peak_mib: Annotated[float, Field(gt=0)] | None
    versions: dict[str, str]


def parse_peers(options: list[str]) -> dict[str, Path]:
    """``NAME=PYTHON`` options as a mapping; InvalidConfiguration for another name, form or file, or a name twice."""
    found: dict[str, Path] = {}
    for option in options:
        name, equals, python = option.partition("=")
        if not equals or name not in PACKAGES:
            known = " or ".join(f"{peer}=PATH" for peer in PACKAGES)
            raise InvalidConfiguration(f"--peer-python {option!r} is not {known}", f"Give {known}.")
        if name in found:
            raise InvalidConfiguration(f"two --peer-python for {name}", "One environment a project is enough.")
        path = Path(python)
        if not path.is_file() or not os.access(path, os.X_OK):
            raise InvalidConfiguration(
                f"--peer-python {name}: {python} is no program", f"Give the python of its environment. {_recipe(name)}"
            )
        found[name] = path
    return found


def require_peer(name: str, python: Path, scripts: Path = SCRIPTS) -> None:
    """Nothing is measured before this holds: the script is here, and the environment has its packages.

    Raises InvalidConfiguration (which names what to install) or PeerFailed if that Python does not run at all.
    """
    script = _script(name, scripts)
    if not script.exists():
        raise InvalidConfiguration(
            f"there is no {script}", "Peers are measured from a checkout of the repository, which has benchmarks/."
        )
    module, _ = PACKAGES[name]
    program = f"import importlib.util as u, sys; sys.exit(0 if u.find_spec({module.split('.')[0]!r}) else 3)"
    code = _run([str(python), "-c", program], _IMPORT_SECONDS).returncode
    if code == 3:
        raise InvalidConfiguration(f"{python} has no package {module.split('.')[0]}", _recipe(name))
    done = _run([str(python), "-c", f"import {module}"], _IMPORT_SECONDS)
    if done.returncode != 0:
        raise InvalidConfiguration(f"{python} cannot import {module}: {_last_line(done.stderr)}", _recipe(name))


@dataclass
class PeerRounds:
    """Rounds of one peer. The first one also measures its server's memory, where the script can.

    ``system`` is the name its script gives; the setting is known when the first round is over.
    """

    name: str
    python: Path
    values: int
    hospitals: int
    scripts: Path = SCRIPTS
    system: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(self.system or self.name, None, None, "none", self.values, self.hospitals)

    def measure(self) -> Round:
        """One run of the script; PeerFailed, with the command, if it does not give a line."""
        command = [str(self.python), str(_script(self.name, self.scripts)), str(self.values), str(self.hospitals)]
        if not self.system:
            command.append("--memory")
        line = parse_line(_run(command, _ROUND_SECONDS), command)
        self.system = line.system
        return Round(
            seconds=line.seconds,
            up_bytes=line.up_bytes_per_value * self.values,
            down_bytes=line.down_bytes_per_value * self.values,
            max_error=line.max_error,
            coordinator_peak_mib=line.coordinator_peak_mib,
            contributions=self.hospitals,
            versions=line.versions,
        )


def parse_line(done: subprocess.CompletedProcess[str], command: list[str]) -> PeerLine:
    """The last line of a script's output: libraries may print before it."""
    said = " ".join(command)
    if done.returncode != 0:
        raise PeerFailed(f"{said} ended with exit code {done.returncode}: {_last_line(done.stderr)}")
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise PeerFailed(f"{said} printed nothing")
    try:
        return PeerLine.model_validate_json(lines[-1], strict=True)
    except ValidationError as error:
        raise PeerFailed(f"{said} printed another line than was asked for: {explain(error)}") from error


def _script(name: str, scripts: Path) -> Path:
    return scripts / f"{name}_round.py"


def _recipe(name: str) -> str:
    return f"Make one: python3 -m venv PEER && PEER/bin/pip install '{PACKAGES[name][1]}', then {name}=PEER/bin/python."


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    # Our own packages must not be found by the other interpreter.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        return subprocess.run(  # noqa: S603  # the program that the user named, with our arguments
            command, capture_output=True, text=True, check=False, timeout=seconds, env=environment, errors="replace"
        )
    except OSError as error:
        raise PeerFailed(f"{command[0]} does not run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise PeerFailed(f"{' '.join(command)} did not end within {seconds:g} s") from error


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][-_TAIL:] if lines else "no message"
