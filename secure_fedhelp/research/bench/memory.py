"""Peak memory of the coordinator's work, in a fresh process that does nothing else and has no torch or TenSEAL.

The process checks and adds bodies from files one at a time, as the coordinator does, takes off masks, and writes the
sum. Bodies are a few real ones under many names (hard links): what memory it takes does not depend on the content, and
a canonical body counts once under each name. What the process tells is its own high-water mark (VmHWM in
/proc/self/status), which begins anew with a program, so nothing of this process is in it.

Run as a program: python -m secure_fedhelp.research.bench.memory FOLDER
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from secure_fedhelp.errors import StorageError
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.packing import SumAccumulator, check_body
from secure_fedhelp.secagg.profiles import Profile, profile
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.files import write_atomic


def coordinator_peak_mib(profile: Profile, values: int, bodies: Sequence[bytes], hospitals: int, masked: bool) -> float:
    """MiB at most resident while ``hospitals`` bodies of ``values`` values are added, and unmasked if ``masked``.

    The masks are of fresh keys, one a hospital, as in a round of which nobody drops out. StorageError if the process
    cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="secure-fedhelp-bench-") as name:
        folder = Path(name)
        for number, body in enumerate(bodies[:hospitals]):
            write_atomic(folder / f"body-{number:05d}", body, 0o600)
        for number in range(len(bodies), hospitals):
            (folder / f"body-{number:05d}").hardlink_to(folder / f"body-{number % len(bodies):05d}")
        keys = [os.urandom(32).hex() for _ in range(hospitals)] if masked else []
        task = {"profile": profile.name, "values": values, "masks": keys}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", __name__, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ourselves
    if done.returncode != 0:
        raise StorageError(f"the process whose memory is measured failed: {done.stderr[-300:].strip()}")
    return float(done.stdout)


def serve(folder: Path) -> float:
    """The coordinator's work on a folder of bodies; this process's peak resident memory in MiB."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    chosen = profile(task["profile"])
    accumulator = SumAccumulator(chosen, task["values"])
    for path in sorted(folder.glob("body-*")):
        with path.open("rb") as file:
            body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # as coordinator/spool.py does
        hashlib.sha256(body).hexdigest()
        check_body(chosen, task["values"], body)
        accumulator.add(path.name, body)
        del body  # which unmaps it
    add_expanded(accumulator.total, chosen, (), [bytes.fromhex(key) for key in task["masks"]])
    data = accumulator.finish()
    sha256_hex(data)
    write_atomic(folder / "sum", data, 0o600)
    return peak_mib()


def peak_mib(process: str = "self") -> float:
    """Peak resident memory of a process (its number, or ``self``) since its program began."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    print(serve(Path(sys.argv[1])))
