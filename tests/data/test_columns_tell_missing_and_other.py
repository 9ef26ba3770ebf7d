"""A column may say that a value is missing, and take what the plan does not list; who uses neither sees no change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import example_plan
from pydantic import ValidationError

from secure_fedhelp.data.encoding import decode_row, encode, unlisted
from secure_fedhelp.data.tables import load_table, read_table, write_table
from secure_fedhelp.errors import InvalidPlan, UnknownCategory
from secure_fedhelp.research.schema import infer_column
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import Column, DataSection

AGE = Column(name="age", kind="numeric", center=60.0, scale=10.0, missing_indicator=True)
SEX = Column(name="sex", kind="categorical", categories=("f", "m"), missing_indicator=True, other=True)


def section(*columns: Column) -> DataSection:
    return DataSection(
        dataset="clinic",
        kind="table",
        classes=("healthy", "ill"),
        input_shape=(sum(column.width for column in columns),),
        columns=columns,
        public_sha256="0" * 64,
        public_records=1,
    )


@pytest.mark.parametrize(
    ("column", "text", "features"),
    [
        (AGE, "70", [1.0, 0.0]),
        (AGE, "60", [0.0, 0.0]),
        (AGE, " ? ", [0.0, 1.0]),
        (SEX, "f", [1.0, 0.0, 0.0, 0.0]),
        (SEX, "x", [0.0, 0.0, 1.0, 0.0]),
        (SEX, "F", [0.0, 0.0, 1.0, 0.0]),
        (SEX, "", [0.0, 0.0, 0.0, 1.0]),
        (SEX.model_copy(update={"missing_indicator": False}), "", [0.0, 0.0, 0.0]),
        (Column(name="g", kind="categorical", categories=("1", "2"), other=True), "1.0", [1.0, 0.0, 0.0]),
        (Column(name="g", kind="categorical", categories=("1", "2"), other=True), "1.5", [0.0, 0.0, 1.0]),
    ],
)
def test_other_and_the_indicator_follow_the_features_of_the_value(
    column: Column, text: str, features: list[float]
) -> None:
    assert encode(text, column, "line 2") == features
    assert len(features) == column.width


def test_without_other_a_strange_category_is_still_refused() -> None:
    with pytest.raises(UnknownCategory, match="'x' is none of f, m"):
        encode("x", SEX.model_copy(update={"other": False}), "line 2")


@pytest.mark.parametrize("categories", [("f", "m"), ("other", "f"), ("other", "other-other", "1"), ("0", "1")])
def test_what_is_not_listed_is_written_as_a_word_that_no_plan_lists(categories: tuple[str, ...]) -> None:
    column = Column(name="c", kind="categorical", categories=categories, other=True)
    assert encode(unlisted(column), column, "") == [*[0.0] * len(categories), 1.0]


words = st.sampled_from(["f", "m", "x", "other", "", "?", "Divers"])


@given(st.lists(st.tuples(st.one_of(st.just(""), st.integers(0, 110).map(str)), words), min_size=1, max_size=20))
def test_what_is_written_means_the_same_when_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Missing stays missing and is no centre; other stays other, though its word is gone."""
    folder, data = tmp_path_factory.mktemp("written"), section(AGE, SEX)
    lines = [f"p{n},{age},{sex},ill" for n, (age, sex) in enumerate(rows)]
    (folder / "a.csv").write_text("patient_id,age,sex,target\n" + "\n".join(lines) + "\n")
    first = read_table(folder / "a.csv", data)
    write_table(folder / "b.csv", first.records, data)
    second = read_table(folder / "b.csv", data)
    np.testing.assert_allclose(second.records.inputs, first.records.inputs, atol=1e-6)
    assert second.missing == first.missing


def test_a_decoded_row_has_one_cell_a_column() -> None:
    features = np.asarray([0.0, 1.0, 0.0, 0.0, 1.0, 0.0], dtype=np.float32)
    assert decode_row(features, (AGE, SEX)) == ["", "other"]


def test_a_missing_value_is_another_record_than_one_at_the_centre(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("patient_id,age,target\na,60,ill\na,,ill\n")
    assert len(load_table(tmp_path / "r.csv", section(AGE))) == 2


def test_numbers_have_no_other() -> None:
    with pytest.raises(ValidationError, match="other is for categorical columns"):
        Column(name="age", kind="numeric", other=True)


# --- plans ----------------------------------------------------------------------------------------------------------


def plan_with(*columns: dict[str, Any], features: int) -> StudyPlan:
    values = example_plan().model_dump(mode="json", exclude_none=True)
    values["data"] |= {"kind": "table", "input_shape": [features], "columns": list(columns)}
    return parse_plan(values)


OLD = (
    {"name": "age", "kind": "numeric", "center": 60.0, "scale": 12.0},
    {"name": "sex", "kind": "categorical", "categories": ["f", "m"]},
    {"name": "weight", "kind": "numeric"},
)
#: Of the plan with these columns, as 0.4.0 computes it.
OLD_HASH = "648987805f7a98285f75e882121af9f8e74153439daed860e08a796c09863fe6"


def test_a_plan_of_before_keeps_its_hash() -> None:
    assert plan_with(*OLD, features=4).hash == OLD_HASH
    off = [{**column, "missing_indicator": False} for column in OLD]
    assert plan_with(*off, features=4).hash == OLD_HASH, "off and absent are one plan"
    assert not any("missing_indicator" in c for c in plan_with(*OLD, features=4).model_dump()["data"]["columns"])


def test_a_plan_that_uses_them_is_another_and_is_read_as_it_was_written() -> None:
    hashes = {OLD_HASH}
    for number, key in ((0, "missing_indicator"), (1, "missing_indicator"), (1, "other")):
        columns = [dict(column) for column in OLD]
        columns[number][key] = True
        plan = plan_with(*columns, features=5)
        assert parse_plan(plan.model_dump(mode="json", exclude_none=True)) == plan
        hashes.add(plan.hash)
    assert len(hashes) == 4
    with pytest.raises(InvalidPlan, match="missing_indicators"):
        plan_with({**OLD[0], "missing_indicators": True}, features=5)


# --- inferred columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "indicator", "other"),
    [
        (["1", "2", "3"], "numeric", False, False),
        (["1", " ", "3"], "numeric", True, False),
        (["a", "b"], "categorical", False, True),
        (["a", "?"], "categorical", True, True),
    ],
)
def test_inferred_columns_tell_what_the_public_part_shows(
    values: list[str], kind: str, indicator: bool, other: bool
) -> None:
    column = infer_column("x", values)
    assert (column.kind, column.missing_indicator, column.other) == (kind, indicator, other)
