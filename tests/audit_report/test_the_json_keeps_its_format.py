"""``audit.json`` is read by programs of others: its format is fixed, strict, and complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from secure_fedhelp.audit.report.model import AuditReport, plain, read_report, to_json
from secure_fedhelp.errors import InvalidConfiguration

GOLDEN = Path(__file__).parent / "golden_audit.json"


def blank(value: Any) -> Any:
    """What differs from run to run made the same (hashes, keys, sizes of files with signatures in them), and long
    prose, which may be improved without another format."""
    if isinstance(value, dict):
        return {k: 0 if k == "bytes" and v is not None else blank(v) for k, v in value.items()}
    if isinstance(value, list):
        return [blank(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")  # another machine's Fourier transform may differ in the last digits
    if isinstance(value, str):
        value = re.sub(r"\b[0-9a-f]{64}\b", "0" * 64, value)
        value = re.sub(r"^Secure FedHelp .*", "Secure FedHelp", value)
        value = re.sub(r"\b[0-9a-f]{4}( [0-9a-f]{4}){15}\b", " ".join(["0000"] * 16), value)
        if len(value) > 100:
            return "prose"
        return re.sub(r"\b(key|sum|policy) [0-9a-f]{16}\b|(?<=cards of )[0-9a-f]{16}", "0" * 16, value)
    return value


def test_the_format_is_that_of_the_golden_file(report: AuditReport) -> None:
    """To renew it after a change on purpose: write ``made`` to the file, and raise the format's number."""
    made = json.dumps(blank(json.loads(to_json(report))), indent=1, ensure_ascii=False) + "\n"
    assert made == GOLDEN.read_text(encoding="utf-8")


def test_the_golden_file_is_read_and_written_again_as_it_is() -> None:
    assert to_json(read_report(GOLDEN)) == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"added": 1},
        {"holds": "perhaps"},
        {"said": ""},
        {"said": "an order to the terminal: \x1b[2J"},
        {"said": "turned \u202e round"},
        {"checks": []},
        {"made": -1},
    ],
)
def test_what_is_not_the_format_is_refused_by_name(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(json.loads(GOLDEN.read_bytes()) | change))
    with pytest.raises(InvalidConfiguration, match=next(iter(change))):
        read_report(path)


def test_what_is_no_file_or_no_json_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="absent"):
        read_report(tmp_path / "absent.json")
    (tmp_path / "audit.json").write_bytes(b"\xff")
    with pytest.raises(InvalidConfiguration, match=r"audit\.json"):
        read_report(tmp_path / "audit.json")


def test_a_report_cannot_be_changed(report: AuditReport) -> None:
    with pytest.raises(ValidationError):
        report.holds = False  # type: ignore[misc]


def test_texts_from_files_are_made_harmless() -> None:
    assert plain("a\x1b[31m\u202eb\n") == "a?[31m?b?"
    assert plain("") == "?"
    assert len(plain("x" * 10_000)) == 4000
