"""The key-recovery attack on a real study wins on the exact sum that hospitals decrypt, and loses on every artefact.

An outsider sees the published sums (the coordinator has them, and whoever it gives them to) and what the hospitals let
out: models, metrics, and whatever else is computed from the sums that the learning method is given.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from key_recovery import recovers_key
from numpy.typing import NDArray
from studies import Study, study

from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.picker import plan_profile

pytestmark = pytest.mark.end

NAME = "small-1"


class Seen:
    """What the hospital's learning method was given, and where it started from."""

    means: dict[str, NDArray[np.float64]]
    before: list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Seen]]:
    """One round whose sum fills a whole ciphertext, which the attack needs, and no public steps after it."""
    seen, absorb = Seen(), FedHelp.absorb

    def watched(method: FedHelp, number: int, means: dict[str, Any]) -> None:
        if method.site.hospital == NAME:
            seen.before = [p.detach().numpy().copy() for p in method.shared_model().parameters()]
            seen.means = {name: values.copy() for name, values in means.items()}
        absorb(method, number, means)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FedHelp, "absorb", watched)
        patch.setattr(Vault, "forget_study_keys_before", lambda vault, epoch: None)  # to know whether it was found
        changes = {"model__small": "mlp-64", "learning__public_steps": 0}
        with study(tmp_path_factory.mktemp("written") / "run", rounds=1, **changes) as running:
            running.start_coordinator()
            for name in running.names:
                running.start_thread(name)
            running.join_threads()
            yield running, seen


def attack(running: Study, released: NDArray[Any]) -> bool:
    """Whether the published sum of the round and ``released``, in the sum's units, give away the study key."""
    folder, profile = running.run.hospital(NAME), plan_profile(running.plan)
    vault = Vault.read_only(folder.state, open_lock(folder.root))
    key = StudyKey.from_bytes(profile, vault.study_key(0) or b"")
    published = (running.run.coordinator / "sums" / "00000.sum").read_bytes()
    return recovers_key(profile, [(published, tuple(sorted(running.names)))], [released], key)


def weights(running: Study) -> float:
    return sum(running.plan.weights.values())


def test_the_exact_sum_would_give_the_key_away(finished: tuple[Study, Seen]) -> None:
    running, _ = finished
    folder = running.run.hospital(NAME)
    exact = Vault.read_only(folder.state, open_lock(folder.root)).sum(0)
    assert exact is not None
    assert len(exact) >= plan_profile(running.plan).ring_degree
    assert attack(running, exact)


def test_what_learning_is_given_does_not(finished: tuple[Study, Seen]) -> None:
    """In float64, before any rounding to a model's precision: all models and metrics are computed from this."""
    running, seen = finished
    means = np.concatenate([seen.means[channel.name] for channel in running.plan.channels])
    assert not attack(running, means * weights(running))


def test_the_shared_model_does_not(finished: tuple[Study, Seen]) -> None:
    running, seen = finished
    saved = torch.load(running.run.hospital(NAME).models / "shared.pt", weights_only=True)
    moved = [after.numpy() - before for after, before in zip(saved.values(), seen.before, strict=True)]
    update = np.concatenate([m.reshape(-1) for m in moved]).astype(np.float64)
    assert np.abs(update - seen.means["model-update"]).max() < 1e-3  # it is the update that the attack is aimed at
    released = np.full(running.plan.largest_length, np.nan)
    released[: len(update)] = update * weights(running)
    assert not attack(running, released)


def test_nothing_else_that_is_written_in_clear_is_long_enough(finished: tuple[Study, Seen]) -> None:
    """Metrics are a few figures; the attack needs a whole ciphertext of values, and files with those are sealed."""
    running, _ = finished
    degree = plan_profile(running.plan).ring_degree
    folder = running.run.hospital(NAME)
    for path in [*folder.root.glob("*.json"), *folder.root.glob("*.jsonl"), *folder.models.glob("*.json")]:
        text = path.read_text(encoding="utf-8")
        figures = sum(part.count(".") for part in text.split(","))
        assert figures < degree, path
    record = json.loads((folder.models / "release.json").read_text())
    shared = record["shared.pt"]
    assert shared["may_leave"]
    assert (shared["security_bits"], shared["profile"]) == (30, plan_profile(running.plan).name)
    assert record["personal.pt"]["may_leave"] is False  # it has seen records without noise
    personal = torch.load(io.BytesIO((folder.models / "personal.pt").read_bytes()), weights_only=True)
    assert personal  # trained on from the shared model by this hospital's own steps
