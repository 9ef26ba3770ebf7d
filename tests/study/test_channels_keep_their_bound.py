"""Nothing but finite values within the public bound is packed, and the mean comes back as it went in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from plans import example_plan

from secure_fedhelp.errors import InvalidContribution, StorageError
from secure_fedhelp.study import files
from secure_fedhelp.study.channel import clip_to_bound, pack_channels, unpack_mean
from secure_fedhelp.study.files import write_atomic

PLAN = example_plan()

updates = arrays(np.float64, 10, elements=st.floats(-1, 1))
logits = arrays(np.float64, 4, elements=st.floats(-8, 8))


@given(st.lists(st.tuples(updates, logits), min_size=3, max_size=3))
def test_the_weighted_mean_of_packed_channels_comes_back(values: list[tuple[np.ndarray, np.ndarray]]) -> None:
    names = tuple(h.name for h in PLAN.hospitals)
    total = np.zeros(PLAN.largest_length)
    for name, (update, logit) in zip(names, values, strict=True):
        total += pack_channels(PLAN, 0, name, {"model-update": update, "public-logits": logit})
    means = unpack_mean(PLAN, 0, total, names)
    weights = np.array([PLAN.weights[n] for n in names])
    expected = np.average(np.stack([v[0] for v in values]), axis=0, weights=weights)
    np.testing.assert_allclose(means["model-update"], expected, atol=1e-12)
    expected = np.average(np.stack([v[1] for v in values]), axis=0, weights=weights)
    np.testing.assert_allclose(means["public-logits"], expected, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0000001, -2.0])
def test_a_value_that_is_not_finite_or_beyond_the_bound_is_refused(bad: float) -> None:
    update = np.zeros(10)
    update[3] = bad
    with pytest.raises(InvalidContribution):
        pack_channels(PLAN, 0, "alpha", {"model-update": update, "public-logits": np.zeros(4)})


@pytest.mark.parametrize(
    "channels",
    [
        {"model-update": np.zeros(10)},
        {"model-update": np.zeros(9), "public-logits": np.zeros(4)},
        {"model-update": np.zeros(10), "public-logits": np.zeros(4), "counts": np.zeros(2)},
    ],
)
def test_channels_other_than_the_plans_are_refused(channels: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidContribution):
        pack_channels(PLAN, 0, "alpha", channels)


def test_a_sum_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InvalidContribution):
        unpack_mean(PLAN, 0, np.zeros(13), ("alpha",))


def test_clipping_counts_what_it_cut_and_never_hides_nan() -> None:
    clipped, cut = clip_to_bound(np.array([0.5, -3.0, 2.0]), 1.0)
    assert clipped.tolist() == [0.5, -1.0, 1.0]
    assert cut == 2
    with pytest.raises(InvalidContribution):
        clip_to_bound(np.array([np.nan]), 1.0)


def test_an_atomic_write_on_a_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_secret_file_is_created_for_its_owner_only(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret", 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
