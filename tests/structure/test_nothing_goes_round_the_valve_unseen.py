"""The static check of the valve can fail: it names the line of each way around it, planted in a copy of the package."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "checks" / "valve.py"


@dataclass(frozen=True)
class Plant:
    """Lines put at the end of a file (made if it is new), and what is said of the line with the number ``bad``."""

    name: str
    path: str
    text: str
    said: str
    bad: int = 1


PLANTS = [
    Plant(
        "wire", "data/tables.py", "from secure_fedhelp.wire.messages import Phase", "reaches the wire: wire.messages"
    ),
    Plant("coordinator", "learning/steps.py", "import secure_fedhelp.coordinator.state", "coordinator.state"),
    Plant("grpc", "privacy/training.py", "import grpc", "reaches the wire: grpc"),
    Plant("httpx", "learning/baselines.py", "def late():\n    import httpx", "reaches the wire: httpx", 2),
    Plant("socket", "privacy/noise.py", "from socket import create_connection", "reaches the wire: socket"),
    Plant("url", "data/checks.py", "from urllib import request", "reaches the wire: urllib.request"),
    Plant("relative", "learning/methods/fedhelp.py", "from ...wire import client", "reaches the wire: wire"),
    Plant("gate", "privacy/release.py", "from secure_fedhelp.hospital.agent import Agent", "hospital.agent > wire"),
    Plant("a low module", "study/courier.py", "def send():\n    import socket", ""),
    Plant("through it", "data/images.py", "from secure_fedhelp.study import courier", "study.courier > socket"),
    Plant(
        "teacher", "learning/evaluation.py", "from secure_fedhelp.learning.foundation import TeacherCache", "foundation"
    ),
    Plant("dynamic", "learning/models.py", "import importlib", "importlib > anything"),
    Plant("dunder", "learning/task.py", "__import__('socket')", "__import__"),
    Plant("audit", "audit/peek.py", "from secure_fedhelp.data.records import Records\nimport ssl", "wire: ssl", 2),
    Plant("module", "audit/whole.py", "from secure_fedhelp.data import records\nimport http.client", "http.client", 2),
    Plant(
        "hospital",
        "hospital/side.py",
        "from secure_fedhelp.hospital.preparation import StudyRecords",
        "hospital.preparation > learning.foundation",
    ),
    Plant(
        "hospital module",
        "hospital/other.py",
        "from secure_fedhelp.hospital import preparation",
        "hospital.preparation > learning.foundation",
    ),
    Plant(
        "asking with records",
        "learning/inference_client.py",
        "from secure_fedhelp.data.records import PublicSet, Records",
        "takes data.records.Records, which is not public",
    ),
    Plant(
        "asking with a model",
        "learning/foundation.py",
        "from secure_fedhelp.privacy import training",
        "takes privacy.training",
    ),
    Plant("packing", "hospital/ceremony.py", "from secure_fedhelp.study.channel import pack_channels", "pack_channels"),
    Plant("encrypting", "hospital/vault.py", "def f(key):\n    key.cipher.encrypt_residues(1)", "encrypt_residues", 2),
    Plant("whole body", "hospital/setup.py", "def f(cipher):\n    return cipher.encrypt(1)", "uses cipher.encrypt", 2),
    Plant("body", "cli/hospital.py", "from secure_fedhelp.secagg.packing import pack_body as p", "uses pack_body"),
    Plant("uploading", "hospital/masked_round.py", "def f(c):\n    c.upload(0, b'', b'', b'')", "uses upload", 2),
    Plant("by name", "hospital/ports.py", "def f(c):\n    getattr(c, 'upload')(0)", "uses upload", 2),
    Plant("bound", "cli/demo.py", "def f(c):\n    send = c.upload", "uses upload", 2),
    Plant("signing", "audit/epsilon.py", "def f(k, m, h):\n    k.sign(m.HEADER_CONTEXT, h)", "signs an upload's", 2),
    Plant("by hand", "cli/audit.py", "def f(k, h):\n    k.sign('upload-header', h)", "signs an upload's header", 2),
    Plant("making", "hospital/folder.py", "def f(Released):\n    return Released(1)", "makes a Released", 2),
    Plant(
        "new",
        "hospital/status.py",
        "from secure_fedhelp.privacy import release\nobject.__new__(release.Released)",
        "R",
        2,
    ),
    Plant("renamed", "cli/plan.py", "from secure_fedhelp.privacy.release import Released as R", "makes a Released"),
    Plant("token", "research/demo.py", "from secure_fedhelp.privacy.release import _GATE", "uses _GATE"),
    Plant("issued", "privacy/ledger.py", "def f(release):\n    release._ISSUED.add(1)", "uses _ISSUED", 2),
]
HARMLESS = """
from secure_fedhelp.privacy.release import Released
from urllib.parse import urlsplit

def look(released: Released, upload: int) -> list[Released]:
    kept: Released | None = released if isinstance(released, Released) else None
    return [kept] if upload else []
"""


@pytest.fixture(scope="module")
def valve() -> ModuleType:
    spec = importlib.util.spec_from_file_location("valve", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A copy of the package with every plant in a file of its own, and the line at which each begins."""
    package = tmp_path_factory.mktemp("copy") / "secure_fedhelp"
    shutil.copytree(ROOT / "secure_fedhelp", package, ignore=shutil.ignore_patterns("__pycache__"))
    starts = {}
    for plant in PLANTS:
        path = package / plant.path
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        assert before == "" or before.endswith("\n")
        starts[plant.path] = before.count("\n")
        path.write_text(f"{before}{plant.text}\n", encoding="utf-8")
    (package / "audit" / "harmless.py").write_text(HARMLESS, encoding="utf-8")
    return package, starts


@pytest.fixture(scope="module")
def findings(valve: ModuleType, planted: tuple[Path, dict[str, int]]) -> dict[tuple[str, int], str]:
    return {(f.path, f.line): f.reason for f in valve.check(planted[0])}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_each_way_around_is_named(
    plant: Plant, planted: tuple[Path, dict[str, int]], findings: dict[tuple[str, int], str]
) -> None:
    line = planted[1][plant.path] + plant.bad
    assert len({p.path for p in PLANTS}) == len(PLANTS)
    if plant.said:
        assert plant.said in findings[plant.path, line]
    else:
        assert plant.path not in {path for path, _ in findings}


def test_nothing_else_is_named(planted: tuple[Path, dict[str, int]], findings: dict[tuple[str, int], str]) -> None:
    expected = {(p.path, planted[1][p.path] + p.bad) for p in PLANTS if p.said}
    assert set(findings) == expected


def test_an_exception_that_nothing_needs_is_refused(
    valve: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(valve.BOTH_ENDS, "data.tables", "a door left open")
    assert [f.reason for f in valve.check(ROOT / "secure_fedhelp")] == [
        "data.tables is declared in BOTH_ENDS and needs no exception"
    ]


def test_the_command_says_where_and_exits_with_1(planted: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    run = [sys.executable, str(SCRIPT)]
    good = subprocess.run(run, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout
    assert good.stdout.startswith("The valve holds")
    bad = subprocess.run([*run, str(planted[0])], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    start = planted[1]["data/tables.py"]
    assert f"data/tables.py:{start + 1}: touches records and reaches the wire: wire.messages" in bad.stdout.splitlines()
    lost = subprocess.run([*run, str(tmp_path)], capture_output=True, text=True, check=False)
    assert lost.returncode == 2
    assert "is not the package" in lost.stdout
