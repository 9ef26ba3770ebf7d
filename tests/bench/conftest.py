"""Scripts in place of the peers' for the benchmark's tests; everything measured here is tiny."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_fedhelp.research.bench.peers import PACKAGES

FakePeer = Callable[[str], Path]


@pytest.fixture
def fake_peer(tmp_path: Path) -> FakePeer:
    """Puts a script in place of a peer's; give it the script's body, get the folder that holds it."""

    def write(program: str, name: str = "nvflare") -> Path:
        folder = tmp_path / "scripts"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}_round.py").write_text(program, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def present_packages(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The peers' packages as if this interpreter had them; its path."""
    monkeypatch.setitem(PACKAGES, "nvflare", ("json", "nvflare[HE]"))
    return Path(sys.executable)
