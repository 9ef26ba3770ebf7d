"""Records: shapes that do not fit, patients torn apart, and records that must not join a study."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.data.checks import check_records, shortfall
from secure_fedhelp.data.records import PublicSet, Records, public_hash
from secure_fedhelp.errors import InvalidData, OneClassOnly, PublicSetMismatch, TooFewPatients
from secure_fedhelp.study.plan import StudyPlan, parse_plan


def records(labels: list[int], patients: list[str] | None = None, features: int = 2) -> Records:
    inputs = np.arange(len(labels) * features, dtype=np.float32).reshape(len(labels), features)
    names = tuple(patients or [f"p{i}" for i in range(len(labels))])
    return Records(inputs, np.asarray(labels, dtype=np.int64), names)


def plan(nominal: int = 10, rate: float = 0.3) -> StudyPlan:
    column = {"name": "x", "kind": "numeric"}
    privacy = {
        "sampling_rate": rate,
        "noise_multiplier": 2.0,
        "clipping_norm": 1.0,
        "steps": 2,
        "epsilon": 3.0,
        "delta": 1e-4,
    }
    return parse_plan(
        {
            "study": {"name": "s", "rounds": 2, "seed": 1},
            "consortium": "c",
            "data": {
                "dataset": "d",
                "kind": "table",
                "classes": ["no", "yes"],
                "input_shape": [2],
                "columns": [column, column | {"name": "y"}],
                "public_sha256": "0" * 64,
                "public_records": 3,
            },
            "model": {"small": "mlp-4", "large": "mlp-8"},
            "learning": {
                "private_learning_rate": 0.5,
                "public_learning_rate": 0.01,
                "public_steps": 1,
                "public_batch": 3,
                "pupil_steps": 1,
                "pupil_learning_rate": 0.01,
                "personal_steps": 1,
                "personal_learning_rate": 0.01,
            },
            "privacy": {"small": privacy},
            "aggregation": {"profile": "standard", "minimum_cohort": 2},
            "channels": [{"name": "model-update", "length": 10, "bound": 1.0}],
            "hospitals": [{"name": n, "tier": "small", "nominal_patients": nominal} for n in ("one", "two")],
        }
    )


def test_arrays_that_do_not_fit_are_refused() -> None:
    good = records([0, 1])
    with pytest.raises(InvalidData, match="patient identifiers"):
        Records(good.inputs, good.labels, ("only-one",))
    with pytest.raises(InvalidData, match="float32"):
        Records(good.inputs.astype(np.float64), good.labels, good.patients)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match="labels of shape"):
        Records(good.inputs, good.labels[:1], good.patients)
    with pytest.raises(InvalidData, match="NaN"):
        Records(np.full((2, 2), np.nan, dtype=np.float32), good.labels, good.patients)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30))
def test_patients_are_never_torn_apart(names: list[str]) -> None:
    found = records([0] * len(names), names)
    assert found.n_patients == len(set(names))
    assert sorted(i for group in found.by_patient for i in group) == list(range(len(names)))
    for group in found.by_patient:
        assert len({names[i] for i in group}) == 1
    half = found.take_patients(range(found.n_patients // 2))
    rest = found.take_patients(range(found.n_patients // 2, found.n_patients))
    assert not set(half.patients) & set(rest.patients)
    assert len(half) + len(rest) == len(found)


def test_taking_records_keeps_rows_together() -> None:
    taken = records([0, 1, 0], ["a", "b", "a"]).take([2, 1])
    assert taken.patients == ("a", "b")
    assert taken.labels.tolist() == [0, 1]
    assert taken.inputs[0].tolist() == [4.0, 5.0]


def test_the_hash_of_a_public_set_is_fixed() -> None:
    inputs = np.asarray([[1.0, -2.5], [0.0, 3.0]], dtype=np.float32)
    labels = np.asarray([0, 1], dtype=np.int64)
    assert public_hash(inputs, labels) == "f234c1064c566e99938ec15babcf926923b0b4e9ddd38a5e3be253c731948e2d"
    assert public_hash(inputs, None) == "dbf7f19944a1f5ec0512883f0fafa331320146eb638fca9d1741eb4347cc9bfc"


def test_any_change_of_a_public_set_changes_its_hash() -> None:
    inputs = np.zeros((2, 3), dtype=np.float32)
    labels = np.asarray([0, 1], dtype=np.int64)
    moved = inputs.copy()
    moved[1, 2] = 1e-30
    hashes = {
        public_hash(inputs, labels),
        public_hash(moved, labels),
        public_hash(inputs.reshape(3, 2), labels),
        public_hash(inputs, labels[::-1]),
        public_hash(inputs, None),
    }
    assert len(hashes) == 5


def test_a_public_set_under_a_wrong_hash_is_refused() -> None:
    public = PublicSet.of(np.zeros((2, 3), dtype=np.float32), np.asarray([0, 1], dtype=np.int64))
    assert len(public) == 2
    with pytest.raises(PublicSetMismatch):
        dataclasses.replace(public, sha256="0" * 64)
    with pytest.raises(PublicSetMismatch):
        dataclasses.replace(public, labels=None)


def test_records_that_fit_the_plan_pass() -> None:
    check_records(records([0, 1] * 5), plan(), "one")
    check_records(records([0, 1] * 50), plan(), "one")  # more patients than the nominal number do no harm


def test_one_class_only_is_refused_by_name() -> None:
    with pytest.raises(OneClassOnly, match="yes"):
        check_records(records([1] * 10), plan(), "one")
    with pytest.raises(OneClassOnly, match="no record"):
        check_records(records([]), plan(), "one")


def test_too_few_patients_are_refused_however_many_records_they_have() -> None:
    with pytest.raises(TooFewPatients, match="4 patients"):
        check_records(records([0, 1] * 20, ["a", "b", "c", "d"] * 10), plan(nominal=10), "one")
    check_records(records([0, 1] * 20, ["a", "b", "c", "d", "e"] * 8), plan(nominal=10), "one")


def test_fewer_patients_than_declared_are_told_before_anything_is_spent() -> None:
    seven = records([0, 1] * 20, [f"p{i % 7}" for i in range(40)])
    assert "7 patients here, the plan declares 10" in (shortfall(seven, plan(nominal=10), "one") or "")
    assert shortfall(seven, plan(nominal=7), "one") is None


def test_a_rate_that_draws_nobody_is_refused() -> None:
    with pytest.raises(TooFewPatients, match="0.90"):
        check_records(records([0, 1] * 5), plan(nominal=9, rate=0.1), "one")


def test_other_shapes_and_unknown_classes_are_refused() -> None:
    with pytest.raises(InvalidData, match="shape"):
        check_records(records([0, 1] * 5, features=3), plan(), "one")
    with pytest.raises(InvalidData, match="classes"):
        check_records(records([0, 2] * 5), plan(), "one")
