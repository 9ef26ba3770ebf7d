"""A demonstration beside which every revocation list is emptied for 50 ms and put back, three times a second.

    python benchmarks/swapped_list.py [--rounds 20] [--out FOLDER]

All parties are processes of their own, as ``secure-fedhelp demo`` starts them. Prints the rounds that were published,
the exit code and the hospitals that ended early; exits with 1 unless all rounds are there and nobody ended early.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BROKEN_SECONDS, PERIOD_SECONDS = 0.05, 1 / 3


def swap(run: Path, stop: threading.Event, whole: dict[Path, bytes]) -> int:
    """Until ``stop``; ``whole`` takes each list's content. How often they were emptied."""
    times = 0
    while not stop.wait(PERIOD_SECONDS - BROKEN_SECONDS):
        for path in [run / "coordinator" / "revoked.crl", *run.glob("hospitals/*/keys/revoked.crl")]:
            if path not in whole and path.exists() and path.stat().st_size:
                whole[path] = path.read_bytes()
        for path in whole:
            path.write_bytes(b"")
        time.sleep(BROKEN_SECONDS)
        for path, content in whole.items():
            path.write_bytes(content)
        times += bool(whole)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    run = asked.out or Path(tempfile.mkdtemp(prefix="swapped-")) / "run"
    if run.exists():
        parser.error(f"{run} exists: its lists would be put back into the new run")
    command = [sys.executable, "-m", "secure_fedhelp", "demo", "--rounds", str(asked.rounds), "--out", str(run)]
    stop, whole, times = threading.Event(), dict[Path, bytes](), list[int]()
    swapping = threading.Thread(target=lambda: times.append(swap(run, stop, whole)))
    began = time.monotonic()
    swapping.start()
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - our own command
    stop.set()
    swapping.join()
    rounds = json.loads((run / "summary.json").read_text())["rounds"] if (run / "summary.json").exists() else 0
    early = sorted(path.name for path in (run / "hospitals").iterdir() if not (path / "result.json").exists())
    print(f"\nlists emptied {times[0]} times; {rounds} of {asked.rounds} rounds in {time.monotonic() - began:.0f} s")
    print(f"exit code {code}; hospitals that ended early: {', '.join(early) or 'none'}; see {run}/*/log.txt")
    return int(code != 0 or rounds != asked.rounds or bool(early))


if __name__ == "__main__":
    sys.exit(main())
