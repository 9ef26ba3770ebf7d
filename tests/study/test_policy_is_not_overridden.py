"""The hospital's policy decides: every clause a plan breaks is named, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import VALUES, example_plan

from secure_fedhelp.errors import InvalidPolicy, PolicyViolation
from secure_fedhelp.study.methods import BUILT_IN
from secure_fedhelp.study.policy import SitePolicy, all_clauses, broken_clauses, load_policy, require_allowed

PLAN = example_plan(aggregation__masks="repairing")


def test_a_plan_within_the_policy_is_allowed() -> None:
    require_allowed(SitePolicy(), PLAN, "beta", None)


@pytest.mark.parametrize(
    ("policy", "clause"),
    [
        (SitePolicy(largest_epsilon=2.9), "largest_epsilon"),
        (SitePolicy(largest_delta=1e-5), "largest_delta"),
        (SitePolicy(smallest_cohort=4), "smallest_cohort"),
        (SitePolicy(largest_weight_share=0.5), "largest_weight_share"),
        (SitePolicy(channels_allowed=("model-update",)), "channels_allowed"),
        (SitePolicy(channels_allowed=()), "channels_allowed"),
        (SitePolicy(methods_allowed=("fedavg",)), "methods_allowed"),
    ],
)
def test_each_clause_is_checked(policy: SitePolicy, clause: str) -> None:
    assert [b.clause for b in broken_clauses(policy, PLAN, "beta", None)] == [clause]


def test_a_method_that_a_plan_imports_must_be_named_by_its_path() -> None:
    imported = {"name": "imported", "path": "lung_methods.answers:AnswersOnly"}
    plan = example_plan(method=imported, aggregation__masks="repairing")
    for allowed, broken in (
        (BUILT_IN, ["methods_allowed"]),
        ((*BUILT_IN, "imported"), ["methods_allowed"]),
        (("lung_methods.answers:AnswersOnly",), []),
    ):
        policy = SitePolicy(methods_allowed=allowed)
        assert [b.clause for b in broken_clauses(policy, plan, "beta", None)] == broken


@pytest.mark.parametrize(
    ("small", "allowed", "broken"),
    [
        ("mlp-8", SitePolicy().models_allowed, False),
        ("mlp-8", ("mlp-9",), True),
        ("lung_networks.nets:small", SitePolicy().models_allowed, True),
        ("lung_networks.nets:small", ("*", "lung_networks.nets:*", "lung_networks.*"), True),
        ("lung_networks.nets:small", ("lung_networks.nets:small", "mlp-*"), False),
    ],
)
def test_a_network_that_a_plan_imports_must_be_named_by_its_path(
    small: str, allowed: tuple[str, ...], broken: bool
) -> None:
    plan = example_plan(model__small=small, model__large="mlp-9", aggregation__masks="repairing")
    policy = SitePolicy(models_allowed=allowed)
    found = [str(b) for b in broken_clauses(policy, plan, "beta", None)]
    assert bool(found) == broken
    assert all(f.startswith("models_allowed") and small in f for f in found)


def test_a_foundation_endpoint_outside_the_list_is_refused() -> None:
    policy = SitePolicy(foundation_endpoints=("https://inside.example/",))
    assert not broken_clauses(policy, PLAN, "beta", "https://inside.example/v2")
    assert [b.clause for b in broken_clauses(policy, PLAN, "beta", "https://outside.example")] == [
        "foundation_endpoints"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://inside.example.evil.org/models",
        "https://inside.example:8443/models",
        "http://inside.example/models",
        "https://inside.example@evil.org/models",
        "https://me@inside.example/models",
        "https://inside.example/modelsandmore",
        "https://inside.example/models/../secret",
        "https://inside.example:port/models",
    ],
)
def test_an_endpoint_that_only_looks_like_an_allowed_one_is_refused(url: str) -> None:
    policy = SitePolicy(foundation_endpoints=("https://inside.example/models",))
    assert not broken_clauses(policy, PLAN, "beta", "https://inside.example/models/v2")
    assert broken_clauses(policy, PLAN, "beta", url)


def test_research_metrics_need_the_policys_word() -> None:
    research = example_plan(study__mode="research", aggregation__masks="repairing")
    assert [b.clause for b in broken_clauses(SitePolicy(), research, "beta", None)] == ["metrics"]
    assert not broken_clauses(SitePolicy(metrics="research"), research, "beta", None)


@pytest.mark.parametrize("word", ["local", "noised", "pooled", "research"])
@pytest.mark.parametrize("asked", ["noised", "pooled"])
def test_metrics_leave_only_as_the_policy_says(word: str, asked: str) -> None:
    """Noised counts are the least, exact sums more: a policy's word allows what comes before it."""
    noise = {"noise_multiplier": 5.0} if asked == "noised" else {}
    channels = [*(c.model_dump() for c in PLAN.channels), {"name": "metrics", "length": 12, "bound": 1.0}]
    metrics = {"release": asked, "bins": 2, **noise}
    plan = example_plan(metrics=metrics, channels=channels, aggregation__masks="repairing")
    order = ["local", "noised", "pooled", "research"]
    broken = [b.clause for b in broken_clauses(SitePolicy(metrics=word), plan, "beta", None)]  # type: ignore[arg-type]
    assert broken == ([] if order.index(word) >= order.index(asked) else ["metrics"])


def test_a_lifetime_below_the_plans_budget_is_a_broken_clause_of_its_own() -> None:
    plan = example_plan(aggregation__masks="repairing")
    assert [b.clause for b in broken_clauses(SitePolicy(lifetime_epsilon=2.0), plan, "beta", None)] == [
        "lifetime_epsilon"
    ]
    assert SitePolicy(largest_epsilon=2.5).lifetime == 2.5


def test_every_clause_is_listed_whether_broken_or_not() -> None:
    listed = {c.clause for c in all_clauses(SitePolicy(lifetime_epsilon=9.0), PLAN, "beta", None)}
    assert listed == set(SitePolicy.model_fields)


def test_all_broken_clauses_are_named_in_one_error() -> None:
    strict = SitePolicy(largest_epsilon=0.5, smallest_cohort=5, channels_allowed=("model-update",))
    with pytest.raises(PolicyViolation) as caught:
        require_allowed(strict, PLAN, "beta", "http://somewhere")
    for clause in ("largest_epsilon", "smallest_cohort", "channels_allowed", "foundation_endpoints", "4 clause(s)"):
        assert clause in caught.value.message


@pytest.mark.parametrize("text", ["largest_epsilom = 1.0", "smallest_cohort = 1", "largest_epsilon = 'x'", "["])
def test_a_misspelt_or_malformed_policy_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidPolicy):
        load_policy(path)


def test_a_policy_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("largest_epsilon = 1.5\nsmallest_cohort = 4\n", encoding="utf-8")
    policy = load_policy(path)
    assert (policy.largest_epsilon, policy.smallest_cohort) == (1.5, 4)
    assert policy.hash != SitePolicy().hash


def test_a_plan_below_the_coalition_the_policy_must_stand_is_refused() -> None:
    unmasked = example_plan(aggregation__masks="none")
    assert [b.clause for b in broken_clauses(SitePolicy(), unmasked, "beta", None)] == ["smallest_coalition"]
    assert not broken_clauses(SitePolicy(smallest_coalition=0), unmasked, "beta", None)
    assert broken_clauses(SitePolicy(smallest_coalition=2), PLAN, "beta", None)


def test_the_share_of_the_sum_is_judged_in_the_smallest_cohort() -> None:
    """Beside many light hospitals a heavy one looks light; in a small round it is most of the sum."""
    many = [{"name": f"h{i:02d}", "tier": "small", "nominal_patients": 80} for i in range(30)]
    plan = example_plan(aggregation__masks="repairing", hospitals=[{**VALUES["hospitals"][0]}, *many])
    assert max(plan.weights.values()) / sum(plan.weights.values()) < 0.5
    (broken,) = broken_clauses(SitePolicy(largest_weight_share=0.5), plan, "h00", None)
    assert broken.clause == "largest_weight_share"
    assert "0.89 for one hospital in the smallest cohort" in broken.plan


def test_a_plan_does_not_say_which_column_is_the_patient() -> None:
    """By a column of visits DP-SGD would protect visits, and a second study would find none of the first one's people:
    the lifetime budget would begin anew."""
    by_visit = example_plan(data__patient_id="visit", aggregation__masks="repairing")
    assert [b.clause for b in broken_clauses(SitePolicy(), by_visit, "beta", None)] == ["patient_columns"]
    assert not broken_clauses(SitePolicy(patient_columns=("visit",)), by_visit, "beta", None)
    (broken,) = broken_clauses(SitePolicy(patient_columns=()), PLAN, "beta", None)
    assert str(broken) == "patient_columns: the plan asks patient_id, the policy allows none"
