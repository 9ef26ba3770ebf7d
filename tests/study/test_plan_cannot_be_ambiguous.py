"""The plan is what every hospital signs: nothing in it may be misread, misspelt or depend on a hidden value."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from plans import VALUES, changed, example_plan

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.canonical import canonical_bytes, digest
from secure_fedhelp.study.plan import StudyPlan, load_plan, parse_plan


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("study.rounds", 0, "study.rounds"),
        ("study.round", 4, "study.round"),
        ("study.name", "Lungs; drop", "study.name"),
        ("privacy.small.noise_multiplier", 0.0, "privacy.small.noise_multiplier"),
        ("privacy.small.sampling_rate", 1.0, "privacy.small.sampling_rate"),
        ("privacy.small.delta", float("nan"), "privacy.small.delta"),
        ("channels.0.bound", float("inf"), "channels.0.bound"),
        ("channels.1.name", "model-update", "two channels"),
        ("channels.1.name", "logits", "mechanism"),
        ("channels.1.mechanism", "dp-sgd", "always post-processing"),
        ("channels.1.combine", "sum", "always post-processing"),
        ("channels.0.sensitivity", 1.0, "gaussian channels"),
        ("channels.1", {"name": "own", "length": 4, "bound": 1.0, "mechanism": "gaussian"}, "gaussian channels"),
        ("channels.1", {"name": "own", "length": 4, "bound": 1.0, "mechanism": "counts"}, "counts"),
        ("channels.1.length", 0, "no values in any round"),
        ("channels.1.length", [4, 4], "2 lengths for 4 training rounds"),
        (
            "channels",
            [{"name": "model-update", "length": [4, 0, 4, 4], "bound": 1.0}],
            "no channel has a value in round 2",
        ),
        ("hospitals.1.name", "alpha", "two hospitals with one name: alpha"),
        ("aggregation.minimum_cohort", 4, "minimum_cohort"),
        ("data.input_shape", [784], "input_shape"),
        ("data.public_sha256", "abc", "public_sha256"),
    ],
)
def test_a_wrong_value_is_refused_and_named(path: str, value: object, named: str) -> None:
    with pytest.raises(InvalidPlan, match=named):
        parse_plan(changed(path, value))


METRICS = {"name": "metrics", "length": 12, "bound": 1.0}


@pytest.mark.parametrize(
    ("metrics", "channel", "rounds", "named"),
    [
        ({"release": "pooled", "bins": 2}, None, 4, "go together"),
        (None, METRICS, 4, "go together"),
        ({"release": "pooled", "bins": 3}, METRICS, 4, "length 12, 16 is right"),
        ({"release": "pooled", "bins": 2}, METRICS, 1, "at least two rounds"),
        ({"release": "pooled", "bins": 2, "noise_multiplier": 4.0}, METRICS, 4, "noise_multiplier"),
        ({"release": "noised", "bins": 2}, METRICS, 4, "noise_multiplier"),
        ({"release": "clear", "bins": 2}, METRICS, 4, "metrics.release"),
    ],
)
def test_metrics_that_contradict_the_plan_are_refused(metrics: Any, channel: Any, rounds: int, named: str) -> None:
    values = copy.deepcopy(VALUES)
    values["study"]["rounds"] = rounds
    values["metrics"] = metrics
    values["channels"] += [channel] if channel else []
    with pytest.raises(InvalidPlan, match=named):
        parse_plan(values)


def test_a_plan_that_measures_does_so_in_a_last_round_that_trains_nothing() -> None:
    values = copy.deepcopy(VALUES)
    assert parse_plan(values).measuring_round is None
    values["metrics"] = {"release": "pooled", "bins": 2}
    values["channels"].append(METRICS)
    plan = parse_plan(values)
    assert (plan.measuring_round, plan.training_rounds) == (3, 3)
    assert plan.largest_sum == max(8.0 * sum(plan.weights.values()), 3 * 1.0)


def test_a_tier_without_its_privacy_section_is_refused() -> None:
    values = copy.deepcopy(VALUES)
    del values["privacy"]["large"]
    with pytest.raises(InvalidPlan, match=r"privacy\.large"):
        parse_plan(values)


def test_a_table_without_columns_is_refused() -> None:
    values = changed("data.kind", "table")
    values["data"]["input_shape"] = [3]
    with pytest.raises(InvalidPlan, match="columns"):
        parse_plan(values)


@pytest.mark.parametrize(("kind", "categories"), [("numeric", ("a",)), ("categorical", ())])
def test_a_column_with_the_wrong_categories_is_refused(kind: str, categories: tuple[str, ...]) -> None:
    values = changed("data.columns", [{"name": "age", "kind": kind, "categories": list(categories)}])
    with pytest.raises(InvalidPlan, match="age"):
        parse_plan(values)


def test_the_hash_survives_toml_and_changes_with_any_value(tmp_path: Path) -> None:
    plan = parse_plan(VALUES)
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    assert load_plan(path).hash == plan.hash
    assert parse_plan(changed("privacy.small.epsilon", 3.0001)).hash != plan.hash


@pytest.mark.parametrize("text", ["[study\n", "study = \xff"])
def test_a_malformed_file_is_a_named_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidPlan, match=r"plan\.toml"):
        load_plan(path)


def test_a_missing_file_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidPlan, match="no such file"):
        load_plan(tmp_path / "absent.toml")


def test_precision_weights_follow_their_formula_and_never_exceed_one() -> None:
    plan = parse_plan(VALUES)
    alpha, beta, gamma = (0.05 * 400 / 1.0) ** 2, (0.25 * 80 / 4.0) ** 2, (0.25 * 40 / 4.0) ** 2
    assert plan.weights == {"alpha": 1.0, "beta": beta / alpha, "gamma": gamma / alpha}


def test_uniform_weights_are_equal() -> None:
    assert set(parse_plan(changed("aggregation.weights", "uniform")).weights.values()) == {1.0}


def test_an_unlisted_hospital_is_not_found() -> None:
    with pytest.raises(KeyError):
        parse_plan(VALUES).hospital("mallory")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_the_canonical_form_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def turned(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: turned(v[k]) for k in reversed(list(v))}
        return [turned(x) for x in v] if isinstance(v, list) else v

    assert canonical_bytes(value) == canonical_bytes(turned(value))
    assert b"\n" not in canonical_bytes(value)


def test_the_canonical_form_is_fixed() -> None:
    assert canonical_bytes({"b": [1, 2.5, "é"], "a": None}) == '{"a":null,"b":[1,2.5,"é"]}'.encode()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_has_no_canonical_form(value: float) -> None:
    with pytest.raises(ValueError):
        canonical_bytes({"x": value})


def test_plans_are_frozen() -> None:
    plan: StudyPlan = parse_plan(VALUES)
    with pytest.raises(Exception, match="frozen"):
        plan.consortium = "south"  # type: ignore[misc]  # the point of the test


def test_a_changed_copy_of_a_plan_has_a_hash_and_weights_of_its_own() -> None:
    """A copy that kept those of the plan it came from would be signed, and weighted, as another study."""
    plan = example_plan()
    before = (plan.hash, dict(plan.weights), plan.largest_length)
    privacy = plan.privacy | {"small": plan.privacy["small"].model_copy(update={"noise_multiplier": 9.0})}
    copy = plan.model_copy(update={"privacy": privacy})
    assert copy.hash != before[0]
    assert copy.weights != before[1]
    assert (plan.hash, plan.weights) == before[:2]
    assert plan.model_copy().hash == plan.hash
