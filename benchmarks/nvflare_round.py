"""One encrypted round as NVIDIA FLARE's HE filters make it: their CKKS settings, their wire format, their addition.

Run by the Python of an environment with nvflare[HE], usually by ``secure-fedhelp bench``:

    PYTHON benchmarks/nvflare_round.py VALUES HOSPITALS [--memory]

Prints one line of JSON (secure_fedhelp/research/bench/peers.py reads it). What nvflare.app_opt.he does to a model's
tensors is done here to tensors that add up to VALUES: ``tenseal.ckks_vector`` with the context that NVFLARE's HE
provisioning makes (degree 8192, moduli of 60, 40 and 40 bits, scale 2^40, symmetric), then FOBS with NVFLARE's own
decomposers; the server loads, adds tensor by tensor and dumps. With ``--memory`` a process that does the server's part
alone is measured too. Without transport.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tenseal as ts
from nvflare.app_opt.he import decomposers
from nvflare.fuel.utils import fobs
from stages import Stages

TENSORS = 20
#: A tensor takes whole ciphertexts of 4096 values: small models have fewer tensors, or padding would be all there is.
SMALLEST_TENSOR = 16_384
DEVIATION = 0.05


def contexts() -> tuple[ts.Context, ts.Context, bytes]:
    """The clients' context with the secret key, the server's without, and the latter's bytes."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.generate_relin_keys()
    context.global_scale = 2**40
    public = context.serialize(save_secret_key=False)
    return ts.context_from(context.serialize(save_secret_key=True)), ts.context_from(public), public


def tensor_sizes(values: int, rng: np.random.Generator) -> list[int]:
    """Sizes of some tensors that add up to ``values``, as unequal as a network's."""
    count = max(1, min(TENSORS, values // SMALLEST_TENSOR))
    cuts = np.sort(rng.choice(np.arange(1, values), count - 1, replace=False)) if count > 1 else np.empty(0, dtype=int)
    return [int(s) for s in np.diff(np.concatenate([[0], cuts, [values]]))]


def measure(values: int, hospitals: int, wires: Path | None) -> dict[str, object]:
    """The round's figures; each upload is also written into ``wires`` if a folder is given."""
    rng = np.random.default_rng(0)
    sizes = tensor_sizes(values, rng)
    client, _, public = contexts()
    if wires is not None:
        (wires / "context").write_bytes(public)
    stages, share = Stages(), 1.0 / hospitals
    truth, total, up = np.zeros(values), None, 0
    for number in range(hospitals):
        tensors = {f"layer{i}": rng.normal(0, DEVIATION, size) for i, size in enumerate(sizes)}
        truth += np.concatenate(list(tensors.values()))
        stages.start()
        encrypted = {name: ts.ckks_vector(client, tensor) for name, tensor in tensors.items()}
        stages.end("upload.encrypt", share)
        wire = fobs.dumps(encrypted)
        stages.end("upload.pack", share)
        up += len(wire)
        if wires is not None:
            (wires / f"{number}").write_bytes(wire)
        stages.start()
        received = fobs.loads(wire)
        stages.end("coordinator.unpack")
        total = received if total is None else {name: total[name] + received[name] for name in total}
        stages.end("coordinator.add")
    wire = fobs.dumps(total)
    stages.end("coordinator.pack")
    received = fobs.loads(wire)
    stages.end("download.unpack")
    secret = client.secret_key()
    found = np.concatenate([np.array(vector.decrypt(secret)) for vector in received.values()])
    stages.end("download.decrypt")
    return {
        "seconds": stages.seconds,
        "up_bytes_per_value": up / hospitals / values,
        "down_bytes_per_value": len(wire) / values,
        "max_error": float(np.abs(found - truth).max()),
    }


def serve(wires: Path, hospitals: int) -> None:
    """The server's part alone; prints the process's peak resident memory in MiB."""
    ts.context_from((wires / "context").read_bytes())
    total = None
    for number in range(hospitals):
        received = fobs.loads((wires / f"{number}").read_bytes())
        total = received if total is None else {name: total[name] + received[name] for name in total}
        del received
    fobs.dumps(total)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("values", type=int)
    parser.add_argument("hospitals", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    decomposers.register()
    if arguments.serve is not None:
        serve(arguments.serve, arguments.hospitals)
        return
    peak = None
    if arguments.memory:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(arguments.values, arguments.hospitals, Path(folder))
            command = [sys.executable, __file__, *sys.argv[1:3], "--serve", folder]
            peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])  # noqa: S603 - ourselves
    else:
        figures = measure(arguments.values, arguments.hospitals, None)
    versions = {name: version(name) for name in ("nvflare", "tenseal", "numpy")}
    print(json.dumps({"system": "nvflare-he", **figures, "coordinator_peak_mib": peak, "versions": versions}))


if __name__ == "__main__":
    main()
