"""Fifty rounds of ten hospitals are audited in well under half a minute, and every figure in them is looked at."""

from __future__ import annotations

import json
import time
from pathlib import Path

from long_runs import make_long_run
from typer.testing import CliRunner

from secure_fedhelp.cli.audit import app
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.mechanisms import study_events

#: Seconds that one processor may take for ``audit verify`` and ``audit epsilon`` together (measured: 4).
LIMIT = 30.0


def test_an_audit_of_fifty_rounds_and_ten_hospitals_takes_seconds(tmp_path: Path) -> None:
    run = make_long_run(tmp_path / "run", hospitals=10, rounds=50)
    ledgers = [str(run.ledger(name)) for name in sorted(run.scribe.hospitals)]
    out = tmp_path / "epsilon.json"
    # What the study itself computed is in this process's caches; other deltas than the plan's make the audit work.
    begin = time.process_time()
    verified = CliRunner().invoke(app, ["verify", str(run.root)], catch_exceptions=False)
    added = CliRunner().invoke(
        app, ["epsilon", *ledgers, "--json", str(out), "--delta", "3e-5"], catch_exceptions=False
    )
    assert time.process_time() - begin < LIMIT
    assert (verified.exit_code, added.exit_code) == (0, 0)
    assert verified.output.count("50 uploads, 100 entries") == 10
    found = json.loads(out.read_bytes())
    expected = {name: epsilon(study_events(run.plan, name), 3e-5) for name in run.scribe.hospitals}
    assert {row["hospital"]: row["total"]["epsilon"] for row in found["ledgers"]} == expected
    everybody = epsilon([e for name in run.scribe.hospitals for e in study_events(run.plan, name)], 3e-5)
    assert found["everywhere"]["epsilon"] == everybody > max(expected.values())
