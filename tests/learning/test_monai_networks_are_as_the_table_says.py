"""docs/networks.md says which of MONAI's networks a study can train; each is made small, and tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai_networks import can_be_made, networks, row

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
NETWORKS = networks()


def table() -> list[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| network | answers for |"))
    return [line for line in lines[start + 2 :] if line.startswith("| `")]


def test_the_table_has_a_line_for_each() -> None:
    assert len(table()) == len(NETWORKS)


@pytest.mark.parametrize("number", range(len(NETWORKS)), ids=[f"{n.name} {n.settings}".strip() for n in NETWORKS])
def test_a_network_is_as_the_table_says(number: int) -> None:
    if not can_be_made(NETWORKS[number]):
        pytest.skip(f"needs {NETWORKS[number].needs}")
    assert row(number) == table()[number]
