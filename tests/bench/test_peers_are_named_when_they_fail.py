"""Other projects run in environments we do not control: whatever is wrong there has a name, a cause and a recipe."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.bench.peers import (
    PACKAGES,
    SCRIPTS,
    PeerFailed,
    PeerRounds,
    parse_peers,
    require_peer,
)

LINE: dict[str, object] = {
    "system": "nvflare-he",
    "seconds": {"upload.encrypt": 0.5, "coordinator.add": 1.5, "download.decrypt": 0.25},
    "up_bytes_per_value": 73.5,
    "down_bytes_per_value": 73.25,
    "max_error": 3e-9,
    "coordinator_peak_mib": 600.0,
    "versions": {"nvflare": "2.9.0"},
}


def saying(line: dict[str, object]) -> str:
    return f"import json, sys\nprint('WARNING: of a library')\nprint(json.dumps({line!r}))\n"


def test_a_script_is_run_and_its_last_line_read(fake_peer: Any) -> None:
    program = saying(LINE).replace(f"{LINE!r}", f"{LINE!r} | {{'versions': {{'arguments': ' '.join(sys.argv[1:])}}}}")
    peer = PeerRounds("nvflare", Path(sys.executable), 1000, 10, fake_peer(program))
    assert peer.setting.system == "nvflare"
    first, second = peer.measure(), peer.measure()
    assert first.versions == {"arguments": "1000 10 --memory"}  # the first round measures memory too
    assert second.versions == {"arguments": "1000 10"}
    assert (first.critical_path, first.up_bytes, first.down_bytes) == (2.25, 73_500, 73_250)
    assert first.coordinator_peak_mib == 600.0
    assert peer.setting.system == "nvflare-he"
    assert peer.setting.profile is None


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise RuntimeError('no context')", "exit code 1: RuntimeError: no context"),
        ("pass", "printed nothing"),
        ("print('done')", "another line"),
        (saying(LINE | {"speed": 1}), "speed"),
        (saying(LINE | {"seconds": {}}), "seconds"),
        (saying(LINE | {"seconds": {"encrypt": 1.0}}), "seconds"),
        (saying(LINE | {"max_error": "small"}), "max_error"),
        (saying({k: v for k, v in LINE.items() if k != "versions"}), "versions"),
    ],
)
def test_a_script_that_fails_or_says_something_else_is_named(fake_peer: Any, program: str, said: str) -> None:
    peer = PeerRounds("nvflare", Path(sys.executable), 1000, 10, fake_peer(program))
    with pytest.raises(PeerFailed, match=said) as caught:
        peer.measure()
    assert "nvflare_round.py 1000 10" in caught.value.message  # to be run by hand


def test_a_missing_package_is_named_with_what_to_install() -> None:
    with pytest.raises(InvalidConfiguration, match="no package nvflare") as caught:
        require_peer("nvflare", Path(sys.executable))
    assert "pip install 'nvflare[HE]'" in caught.value.hint
    with pytest.raises(InvalidConfiguration, match="no package flwr"):
        require_peer("flower", Path(sys.executable))


def test_a_package_without_its_extra_is_told_from_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "nvflare", ("json.no_such_part", "nvflare[HE]"))
    with pytest.raises(InvalidConfiguration, match=r"cannot import json.no_such_part: .*No module named"):
        require_peer("nvflare", Path(sys.executable))


def test_a_present_package_passes(present_packages: Path) -> None:
    require_peer("nvflare", present_packages)


def test_a_program_that_is_no_python(tmp_path: Path, present_packages: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("not a program", encoding="utf-8")
    broken.chmod(0o755)
    with pytest.raises(PeerFailed, match="does not run"):
        require_peer("nvflare", broken)


def test_scripts_that_are_not_there(tmp_path: Path, present_packages: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="no .*nvflare_round.py"):
        require_peer("nvflare", present_packages, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["fate=/usr/bin/python3"], "is not nvflare=PATH or flower=PATH"),
        (["nvflare"], "is not nvflare=PATH"),
        (["nvflare=/no/such/python"], "is no program"),
        ([f"nvflare={Path(__file__)}"], "is no program"),
        ([f"flower={sys.executable}", f"flower={sys.executable}"], "two --peer-python for flower"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(InvalidConfiguration, match=said):
        parse_peers(options)


def test_options_become_paths() -> None:
    assert parse_peers([]) == {}
    assert parse_peers([f"nvflare={sys.executable}"]) == {"nvflare": Path(sys.executable)}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_our_scripts_are_there_and_name_stages_as_the_format_asks(name: str) -> None:
    text = (SCRIPTS / f"{name}_round.py").read_text(encoding="utf-8")
    ast.parse(text)
    stages = set(re.findall(r"stages\.end\(\"([^\"]+)\"", text))
    assert {stage.split(".")[0] for stage in stages} == {"upload", "coordinator", "download"}
    assert all(re.fullmatch(r"(upload|coordinator|download)\.[a-z][a-z_]*", stage) for stage in stages)
    assert "secure_fedhelp" not in re.sub(r'""".*?"""', "", text, flags=re.DOTALL)  # the other interpreter has it not
