"""A lower room never knows an upper one, and heavy packages stay in the rooms that need them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "secure_fedhelp"
#: From the ground floor up. Rooms on one line do not know each other.
FLOORS = [
    {"errors", "__init__"},
    {"study"},
    {"pages"},
    {"identity"},
    {"secagg"},
    {"data"},
    {"privacy"},
    {"learning"},
    {"wire"},
    {"coordinator", "hospital"},
    {"audit"},
    {"research"},
    {"cli"},
    {"__main__"},
]
#: Who may import a heavy package, at the top of a file or inside a function.
HEAVY = {
    "tenseal": {"secagg/ckks.py", "secagg/keys.py", "secagg/seal_format.py"},
    "opacus": {"privacy", "learning", "audit", "research/bench/noise.py", "research/bench/modes.py"},
    "torch": {"privacy", "learning", "research", *(f"audit/canary/{f}.py" for f in ("white_box", "game", "planted"))},
    "grpc": {"wire", "coordinator", "research/bench/plaintext.py"},
}


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [p for p in sorted(ROOT.rglob("*.py")) if "generated" not in p.parts]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_its_own_room_and_those_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "secure_fedhelp" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        other = parts[1]
        assert other == room or floor_of(other) < floor_of(room), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(ROOT)
    for name in imported(path):
        allowed = HEAVY.get(name.split(".")[0])
        if allowed is not None:
            assert str(place) in allowed or place.parts[0] in allowed, f"{place} imports {name}"


def test_the_coordinator_and_the_hospital_do_not_know_each_other() -> None:
    for room, other in (("coordinator", "hospital"), ("hospital", "coordinator")):
        for path in (ROOT / room).glob("*.py"):
            assert not any(n.startswith(f"secure_fedhelp.{other}") for n in imported(path)), path
