"""A tiny study for learning tests: five features, two classes, one large and two small hospitals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.learning.methods import method_class
from secure_fedhelp.learning.models import parameter_count
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.plan import StudyPlan, parse_plan

FEATURES = 5


#: Settings of the channels of methods whose lengths :func:`declared` asks for.
SAYS: dict[str, dict[str, dict[str, Any]]] = {
    "prr": {
        "spectrum": {"bound": 4.0, "mechanism": "dp-sgd"},
        "class-counts": {
            "bound": 200.0,
            "mechanism": "gaussian",
            "combine": "sum",
            "sensitivity": 1.0,
            "noise_multiplier": 2.0,
        },
        "prototypes": {
            "bound": 100.0,
            "mechanism": "gaussian",
            "combine": "sum",
            "sensitivity": 1.5,
            "noise_multiplier": 4.0,
        },
    }
}


def declared(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The channels that the method itself asks for, in a plan that is complete but for them."""
    settings, draft = SAYS[values["method"]["name"]], parse_plan(values)
    lengths = method_class(draft.method).lengths(draft)
    return [{"name": name, "length": length, **settings[name]} for name, length in lengths.items()]


class NobodyDrawn:
    """Noise that is always the same and coins that never fall: what is left depends on public things alone."""

    name: NoiseName = "seeded-research"

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return np.full(shape, 0.01 * standard_deviation)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        return np.zeros(count, dtype=np.bool_)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return np.zeros(count)


@dataclass(frozen=True, eq=False)
class TinyStudy:
    plan: StudyPlan
    public: PublicSet
    teacher: NDArray[np.float32]
    records: dict[str, Records]
    test: Records


def make_records(n: int, seed: int) -> Records:
    """A linear task with noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, FEATURES)).astype(np.float32)
    labels = (inputs[:, 0] + inputs[:, 1] + 0.3 * rng.normal(size=n) > 0).astype(np.int64)
    labels[:2] = [0, 1]
    return Records(inputs, labels, tuple(f"p{i}" for i in range(n)))


def make_study(
    labelled: bool = True,
    method: dict[str, Any] | None = None,
    channels: Sequence[str] | None = None,
    **learning: Any,
) -> TinyStudy:
    source = make_records(12, seed=1)
    public = PublicSet.of(source.inputs, source.labels if labelled else None)
    teacher = np.stack([-source.inputs[:, 0], source.inputs[:, 0]], axis=1)
    sizes = {"alpha": ("large", 40), "beta": ("small", 20), "gamma": ("small", 12)}
    privacy = {
        "sampling_rate": 0.4,
        "noise_multiplier": 0.5,
        "clipping_norm": 1.0,
        "steps": 2,
        "epsilon": 9.0,
        "delta": 1e-4,
    }
    settings = {
        "private_learning_rate": 0.5,
        "public_learning_rate": 0.01,
        "public_steps": 2,
        "warm_steps": 3,
        "public_batch": 6,
        "pupil_steps": 3,
        "pupil_learning_rate": 0.01,
        "personal_steps": 3,
        "personal_learning_rate": 0.01,
    }
    update = {"name": "model-update", "length": parameter_count("mlp-6", (FEATURES,), 2), "bound": 2.0}
    logits = {"name": "public-logits", "length": 2 * len(public), "bound": 8.0}
    fedhelp = method is None or method["name"] == "fedhelp"
    usual = ["model-update", "public-logits"] if fedhelp else ["model-update"]
    values: dict[str, Any] = {
        "study": {"name": "tiny", "rounds": 3, "seed": 11},
        "consortium": "c",
        "data": {
            "dataset": "tiny",
            "kind": "table",
            "classes": ["no", "yes"],
            "input_shape": [FEATURES],
            "columns": [{"name": f"x{i}", "kind": "numeric"} for i in range(FEATURES)],
            "public_sha256": public.sha256,
            "public_records": len(public),
            "public_labelled": labelled,
        },
        "model": {"small": "mlp-6", "large": "mlp-12-6"},
        "method": method or {"name": "fedhelp"},
        "learning": settings | learning,
        "privacy": {"large": privacy, "small": privacy},
        "aggregation": {"profile": "standard", "minimum_cohort": 3},
        "channels": [c for c in (update, logits) if c["name"] in (channels or usual)],
        "hospitals": [{"name": n, "tier": tier, "nominal_patients": size} for n, (tier, size) in sizes.items()],
    }
    plan = parse_plan(values | {"channels": declared(values)} if values["method"]["name"] in SAYS else values)
    records = {name: make_records(size, seed=2 + i) for i, (name, (_, size)) in enumerate(sizes.items())}
    return TinyStudy(plan, public, teacher, records, make_records(60, seed=9))


@pytest.fixture
def study() -> TinyStudy:
    return make_study()


@pytest.fixture
def study_with() -> Callable[..., TinyStudy]:
    return make_study


@pytest.fixture
def nobody_drawn() -> NobodyDrawn:
    return NobodyDrawn()
