"""How long the audit of a long study takes, from the command line: seconds by command, imports included.

    python benchmarks/audit_time.py --hospitals 10 --rounds 50

The study is made up but real: plan, cards under a CA, ledgers through the release gate, a signed transcript with masks,
site policies, metrics with noise in the last round (tests/support/long_runs.py). Exit code 1 above --limit seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from long_runs import make_long_run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for all commands together")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run = make_long_run(Path(folder) / "run", chosen.hospitals, chosen.rounds)
        ledgers = [str(run.ledger(name)) for name in sorted(run.scribe.hospitals)]
        size = sum(Path(path).stat().st_size for path in ledgers) + run.transcript.stat().st_size
        print(f"{chosen.hospitals} hospitals, {chosen.rounds} rounds, {size / 1e6:.2f} MB of ledgers and transcript")
        print(f"{time.perf_counter() - begin:6.2f} s  to make them (not counted)")
        report = ["--html", f"{folder}/report.html", "--json", f"{folder}/report.json"]
        commands = {
            "audit verify": [str(run.root), "--ca", str(run.root / "ca.crt")],
            "audit epsilon": ledgers,
            "audit report": [str(run.root), "--ca", str(run.root / "ca.crt"), *report],
        }
        total = sum(_timed(name, arguments) for name, arguments in commands.items())
    print(f"{total:6.2f} s  together; the limit is {chosen.limit:g} s")
    return 0 if total <= chosen.limit else 1


def _timed(name: str, arguments: list[str]) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "secure_fedhelp", *name.split(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{seconds:6.2f} s  {name}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
