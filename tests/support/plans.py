"""A small valid study plan for tests, and a way to change one value of it."""

from __future__ import annotations

import copy
from typing import Any

from secure_fedhelp.study.plan import StudyPlan, parse_plan

VALUES: dict[str, Any] = {
    "study": {"name": "lungs", "rounds": 4, "seed": 7},
    "consortium": "north",
    "data": {
        "dataset": "xray",
        "kind": "image",
        "classes": ["healthy", "ill"],
        "input_shape": [1, 28, 28],
        "public_sha256": "0" * 64,
        "public_records": 50,
    },
    "model": {"small": "cnn-small", "large": "cnn-large"},
    "learning": {
        "private_learning_rate": 0.5,
        "public_learning_rate": 0.1,
        "public_steps": 5,
        "public_batch": 32,
        "pupil_steps": 5,
        "pupil_learning_rate": 0.1,
        "personal_steps": 10,
        "personal_learning_rate": 0.1,
    },
    "privacy": {
        "large": {
            "sampling_rate": 0.05,
            "noise_multiplier": 1.0,
            "clipping_norm": 1.0,
            "steps": 5,
            "epsilon": 3.0,
            "delta": 1e-4,
        },
        "small": {
            "sampling_rate": 0.25,
            "noise_multiplier": 4.0,
            "clipping_norm": 1.0,
            "steps": 5,
            "epsilon": 3.0,
            "delta": 1e-4,
        },
    },
    "aggregation": {"profile": "standard", "minimum_cohort": 3, "masks": "none"},
    "channels": [
        {"name": "model-update", "length": 10, "bound": 1.0},
        {"name": "public-logits", "length": 4, "bound": 8.0},
    ],
    "hospitals": [
        {"name": "alpha", "tier": "large", "nominal_patients": 400},
        {"name": "beta", "tier": "small", "nominal_patients": 80},
        {"name": "gamma", "tier": "small", "nominal_patients": 40},
    ],
}


def changed(path: str, value: object, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the plan's values with the one at a dotted ``path`` replaced."""
    values = copy.deepcopy(VALUES if base is None else base)
    place: Any = values
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    place[int(last) if last.isdigit() else last] = value
    return values


def example_plan(**changes: Any) -> StudyPlan:
    """The plan with values replaced: ``example_plan(study__mode="research")``."""
    values = VALUES
    for path, value in changes.items():
        values = changed(path.replace("__", "."), value, values)
    return parse_plan(values)
