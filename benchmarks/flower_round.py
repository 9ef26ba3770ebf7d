"""One masked round as Flower's SecAgg+ makes it: the steps of its client module and of its workflow, in one process.

Run by the Python of an environment with flwr, usually by ``secure-fedhelp bench``:

    PYTHON benchmarks/flower_round.py VALUES HOSPITALS [--memory]

Prints one line of JSON (secure_fedhelp/research/bench/peers.py reads it). Every client runs the four steps of
``secaggplus_mod`` (keys, shares, masked vector, revealed shares), on the complete graph and with the threshold
floor(2n/3) + 1; the server adds, rebuilds and unmasks with Flower's functions, as ``SecAggPlusWorkflow`` does, with
its default clipping range and ring. There is no encryption: the server ends with the sum in clear. Without transport,
and nobody drops out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
from importlib.metadata import version
from typing import Any

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from stages import Stages

#: By name: the package has a function of the module's name, and an import statement would take that.
client = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

CLIPPING, QUANTISED, RING = 8.0, 1 << 22, 1 << 32
DEVIATION = 0.05


def measure(values: int, hospitals: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    stages, share, truth = Stages(), 1.0 / hospitals, np.zeros(values)
    stages.start()
    states = start_clients(hospitals)
    keys = {str(node): (state.pk1, state.pk2) for node, state in states.items()}
    sealed = {node: client._share_keys(state, dict(keys)) for node, state in states.items()}
    stages.end("upload.agree_on_masks", share)
    total, up = None, 0
    for node, state in states.items():
        contribution = rng.normal(0, DEVIATION, values)
        truth += contribution
        parcels = {Key.SOURCE_LIST: [], Key.CIPHERTEXT_LIST: []}
        for source, sent in sealed.items():
            if source != node:
                parcels[Key.SOURCE_LIST].append(source)
                parcels[Key.CIPHERTEXT_LIST].append(sent[Key.CIPHERTEXT_LIST][sent[Key.DESTINATION_LIST].index(node)])
        parameters = ndarrays_to_parameters([contribution])
        stages.start()
        masked = client._collect_masked_vectors(state, parcels, 1, parameters)[Key.MASKED_PARAMETERS]
        stages.end("upload.mask", share)
        up += sum(len(part) for part in masked)
        stages.start()
        vector = [bytes_to_ndarray(part) for part in masked]
        total = vector if total is None else parameters_addition(total, vector)
        stages.end("coordinator.add")
    total = parameters_mod(total, RING)
    stages.end("coordinator.add")
    nodes = list(states)
    asked = {Key.ACTIVE_NODE_ID_LIST: nodes, Key.DEAD_NODE_ID_LIST: []}
    revealed = [client._unmask(state, asked) for state in states.values()]
    stages.end("upload.reveal", share)
    mean = unmask(total, revealed, nodes)
    stages.end("coordinator.unmask")
    wire = ndarrays_to_parameters(mean)
    stages.end("coordinator.pack")
    found = bytes_to_ndarray(wire.tensors[0])
    stages.end("download.unpack")
    return {
        "seconds": stages.seconds,
        "up_bytes_per_value": up / hospitals / values,
        "down_bytes_per_value": len(wire.tensors[0]) / values,
        "max_error": float(np.abs(found * hospitals - truth).max()),
    }


def start_clients(hospitals: int) -> dict[int, Any]:
    """Every client after the setup step, which makes its keys."""
    configuration = {
        Key.SAMPLE_NUMBER: hospitals,
        Key.SHARE_NUMBER: hospitals,
        Key.THRESHOLD: 2 * hospitals // 3 + 1,
        Key.CLIPPING_RANGE: CLIPPING,
        Key.TARGET_RANGE: QUANTISED,
        Key.MOD_RANGE: RING,
        Key.MAX_WEIGHT: 1.0,
    }
    states = {}
    for node in range(1, hospitals + 1):
        state = client.SecAggPlusState()
        state.nid = node
        client._setup(state, configuration)
        states[node] = state
    for state in states.values():
        state.public_keys_dict = {node: (other.pk1, other.pk2) for node, other in states.items()}
    return states


def unmask(total: list[np.ndarray], revealed: list[dict[str, list]], nodes: list[int]) -> list[np.ndarray]:
    """The mean, as SecAggPlusWorkflow.unmask_stage takes it from the masked sum."""
    shares: dict[int, list[bytes]] = {node: [] for node in nodes}
    for answer in revealed:
        for node, share in zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True):
            shares[node].append(share)
    for node in nodes:
        seed = combine_shares(shares[node])
        total = parameters_subtraction(total, pseudo_rand_gen(seed, RING, get_parameters_shape(total)))
    weight, vectors = factor_extract(parameters_mod(total, RING))
    return [
        (vector - (len(nodes) - 1) * CLIPPING) * (QUANTISED / weight)
        for vector in dequantize(vectors, CLIPPING, QUANTISED)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("values", type=int)
    parser.add_argument("hospitals", type=int)
    parser.add_argument("--memory", action="store_true", help="accepted and not answered: server and clients are one")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        figures = measure(arguments.values, arguments.hospitals)
    versions = {name: version(name) for name in ("flwr", "numpy", "cryptography")}
    print(json.dumps({"system": "flower-secagg+", **figures, "coordinator_peak_mib": None, "versions": versions}))


if __name__ == "__main__":
    main()
