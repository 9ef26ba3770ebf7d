"""Public partitions: layers by pattern, and segments whose left-overs come later instead of never."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.models import build, flatten
from secure_fedhelp.learning.partition import Split, expand, segment_means, segment_starts, with_feedback
from secure_fedhelp.study.channel import Vector

values = st.lists(st.one_of(st.integers(-2, 2).map(float), st.floats(-3, 3)), min_size=1, max_size=40).map(np.array)


@given(values, st.integers(1, 45))
def test_segments_begin_at_the_largest_jumps(vector: Vector, most: int) -> None:
    starts = segment_starts(vector, most)
    jumps = sorted(((abs(vector[k + 1] - vector[k]), -k) for k in range(len(vector) - 1)), reverse=True)
    expected = [0] + [1 - k for size, k in jumps[: most - 1] if size > 0]
    assert starts.tolist() == sorted(expected)
    assert len(starts) <= most


@given(values, st.integers(1, 45))
def test_means_are_the_nearest_vector_with_these_segments(vector: Vector, most: int) -> None:
    starts = segment_starts(vector, most)
    means = segment_means(vector, starts, most)
    ends = [*starts[1:].tolist(), len(vector)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        assert means[number] == pytest.approx(sum(vector[start:end]) / (end - start), abs=1e-12)
    assert not means[len(starts) :].any()
    assert len(means) == most
    assert expand(means, starts, len(vector)).shape == vector.shape


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=12, max_size=12).map(np.array), min_size=1, max_size=8),
    st.integers(1, 12),
    st.floats(0.1, 5),
)
def test_all_that_was_sent_and_what_is_kept_are_all_updates(updates: list[Vector], most: int, bound: float) -> None:
    """Telescoping, with other segments every round and values cut at the bound."""
    kept, sent_so_far = np.zeros(12), np.zeros(12)
    for number, update in enumerate(updates):
        starts = segment_starts(np.roll(update, number), most)
        sent, kept = with_feedback(update, kept, starts, most, bound)
        assert np.abs(sent).max() <= bound
        sent_so_far = sent_so_far + expand(sent, starts, 12)
        np.testing.assert_allclose(sent_so_far + kept, sum(updates[: number + 1]), atol=1e-9)


def test_sent_in_full_nothing_is_kept() -> None:
    update, kept = np.arange(5.0), np.ones(5)
    sent, rest = with_feedback(update, kept, np.arange(5), 5, 10.0)
    assert np.array_equal(sent, update + 1)
    assert not rest.any()


def test_layers_are_personal_by_the_pattern_of_their_names() -> None:
    model = build("mlp-6", (5,), 2, 0)
    vector, names = flatten(model), dict(model.named_parameters())
    split = Split.of(model, ["private_head.*", "*_head.bias"])
    personal = [n for n in names if n.startswith("private_head") or n == "public_head.bias"]
    expected = np.concatenate([names[n].detach().numpy().ravel() for n in personal])
    np.testing.assert_allclose(vector[split.personal], expected)
    assert sum(split.shared_layers) == len(split.shared) == len(vector) - len(expected)
    assert split.shared_layers == tuple(p.numel() for n, p in names.items() if n not in personal)
    assert np.array_equal(split.joined(vector[split.shared], vector[split.personal]), vector)


@pytest.mark.parametrize(
    ("patterns", "reason"),
    [(["decoder.*"], "no layer is called 'decoder"), (["*"], "every layer"), ([], "no layer personal")],
)
def test_patterns_that_split_nothing_are_refused(patterns: list[str], reason: str) -> None:
    with pytest.raises(InvalidPlan, match=reason):
        Split.of(build("mlp-6", (5,), 2, 0), patterns)
