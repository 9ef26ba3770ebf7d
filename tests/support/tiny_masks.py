"""A tiny segmentation study: bright squares on 16x16 images, one large and two small hospitals, no data to download."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.learning.models import parameter_count
from secure_fedhelp.study.plan import StudyPlan, parse_plan

SIDE = 16
SHAPE = (1, SIDE, SIDE)
SIZES = {"alpha": ("large", 14), "beta": ("small", 9), "gamma": ("small", 7)}


def small(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network with a few parameters, by its import path ``tiny_masks:small``."""
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, classes, 1))


def large(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, classes, 1))


def make_records(n: int, seed: int) -> Records:
    """Noise, and in each image a bright square that is the mask."""
    rng = np.random.default_rng(seed)
    inputs, masks = rng.normal(0, 0.3, (n, *SHAPE)).astype(np.float32), np.zeros((n, SIDE, SIDE), dtype=np.int64)
    for image, mask in zip(inputs, masks, strict=True):
        top, left = rng.integers(0, SIDE - 6, 2)
        image[0, top : top + 6, left : left + 6] += 1.5
        mask[top : top + 6, left : left + 6] = 1
    return Records(inputs, masks, tuple(f"p{i}" for i in range(n)))


def teacher_of(public: PublicSet, slope: float = 4.0) -> NDArray[np.float32]:
    """Logits [n, 2, 16, 16] of one who looks at the brightness of each pixel."""
    bright = slope * (public.inputs[:, 0] - 0.75)
    return np.stack([-bright, bright], axis=1).astype(np.float32)


def make_plan(
    public: PublicSet, networks: tuple[str, str] = ("tiny_masks:small", "tiny_masks:large"), **method: Any
) -> StudyPlan:
    """Three rounds of FedHelp, or of the method given."""
    privacy = {
        "sampling_rate": 0.5,
        "noise_multiplier": 0.5,
        "clipping_norm": 1.0,
        "steps": 2,
        "epsilon": 20.0,
        "delta": 1e-4,
    }
    pooled = SIDE // method.get("logit_pool", 1)
    channels = [
        {"name": "model-update", "length": parameter_count(networks[0], SHAPE, 2), "bound": 2.0},
        {"name": "public-logits", "length": 2 * len(public) * pooled**2, "bound": 8.0},
    ]
    fedhelp = method.get("name", "fedhelp") == "fedhelp"
    return parse_plan(
        {
            "study": {"name": "squares", "rounds": 3, "seed": 11},
            "consortium": "c",
            "data": {
                "dataset": "squares",
                "kind": "image",
                "task": "segmentation",
                "classes": ["background", "square"],
                "input_shape": list(SHAPE),
                "public_sha256": public.sha256,
                "public_records": len(public),
                "public_labelled": public.labels is not None,
            },
            "model": {"small": networks[0], "large": networks[1]},
            "method": {"name": "fedhelp"} | method,
            "learning": {
                "private_learning_rate": 0.2,
                "public_learning_rate": 0.03,
                "public_steps": 2,
                "warm_steps": 20,
                "public_batch": 6,
                "pupil_steps": 10,
                "pupil_learning_rate": 0.03,
                "personal_steps": 5,
                "personal_learning_rate": 0.01,
                "home_batch": 6,
            },
            "privacy": {"large": privacy, "small": privacy},
            "aggregation": {"profile": "standard", "minimum_cohort": 3},
            "channels": channels if fedhelp else channels[:1],
            "hospitals": [{"name": n, "tier": tier, "nominal_patients": size} for n, (tier, size) in SIZES.items()],
        }
    )


def make_public(labelled: bool = True) -> PublicSet:
    source = make_records(6, seed=1)
    return PublicSet.of(source.inputs, source.labels if labelled else None)


def make_private() -> dict[str, Records]:
    return {name: make_records(size, seed=2 + i) for i, (name, (_, size)) in enumerate(SIZES.items())}
