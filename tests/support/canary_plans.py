"""A small valid plan whose rounds can be audited: two tiers, a table or an image."""

from __future__ import annotations

from typing import Any

from secure_fedhelp.study.plan import StudyPlan, parse_plan

_PRIVACY = {
    "sampling_rate": 0.5,
    "noise_multiplier": 1.5,
    "clipping_norm": 2.0,
    "steps": 3,
    "epsilon": 9.0,
    "delta": 1e-4,
}


def canary_plan_values(
    tiers: tuple[str, ...] = ("small", "large"), twin: bool = False, image: bool = False
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "dataset": "any",
        "kind": "image" if image else "table",
        "classes": ["a", "b", "c"],
        "input_shape": [1, 8, 8] if image else [6],
        "public_sha256": "0" * 64,
        "public_records": 10,
    }
    if not image:
        data["columns"] = [{"name": f"x{i}", "kind": "numeric"} for i in range(6)]
    return {
        "study": {"name": "audited", "rounds": 4, "seed": 3},
        "consortium": "north",
        "data": data,
        "model": {"small": "cnn-4-4" if image else "mlp-8", "large": "cnn-8-8" if image else "mlp-16"},
        "method": {"name": "fedhelp", "ranking_top": 2, "twin": twin},
        "learning": {
            "private_learning_rate": 0.1,
            "public_learning_rate": 1e-3,
            "public_steps": 2,
            "warm_steps": 5,
            "public_batch": 32,
            "pupil_steps": 2,
            "pupil_learning_rate": 1e-3,
            "personal_steps": 1,
            "personal_learning_rate": 1e-3,
            "class_prior": [0.5, 0.3, 0.2],
        },
        "privacy": dict.fromkeys(tiers, _PRIVACY),
        "aggregation": {"profile": "standard", "minimum_cohort": 2},
        "channels": [
            {"name": "model-update", "length": 100, "bound": 2.0},
            {"name": "public-logits", "length": 30, "bound": 8.0},
        ],
        "hospitals": [{"name": f"h{i}", "tier": tiers[i % len(tiers)], "nominal_patients": 30} for i in range(2)],
    }


def canary_plan(**options: Any) -> StudyPlan:
    return parse_plan(canary_plan_values(**options))
