"""A study file: what a researcher writes to have a study simulated. Everything else follows from data set and method.

name = "heart"
dataset = "heart"
epsilon = 3.0

[method]
name = "fedhelp"

[learning]              # optional: values of the plan's section of that name (docs/plan.md)
private_learning_rate = 0.3
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.study.methods import MethodSection
from secure_fedhelp.study.plan import explain, read_toml
from secure_fedhelp.study.sections import Name, Strict
from secure_fedhelp.study.threshold import Masks


class Variant(Strict):
    """A change of the study under a name of its own, such as a method without one of its ingredients."""

    method: MethodSection | None = None
    learning: dict[str, Any] = Field(default_factory=dict)
    hospitals: tuple[str, ...] = ()


class StudyFile(Strict):
    """One study to simulate. Absent values are the data set's defaults (research/plans.py)."""

    name: Name
    #: One of the catalog's (research/catalog.py).
    dataset: str
    #: Of the split, the weights, the order of batches, and in a simulation of the noise.
    seed: int = Field(default=1, ge=0, lt=2**31)
    rounds: int | None = Field(default=None, ge=1)
    epsilon: float | None = Field(default=None, gt=0)
    masks: Masks = "repairing"
    method: MethodSection | None = None
    #: Values that replace the data set's in the plan's [learning].
    learning: dict[str, Any] = Field(default_factory=dict)
    #: Those of the data set's hospitals that take part; all if none is named.
    hospitals: tuple[str, ...] = ()
    #: For sweeps: what else may be named among the methods.
    variants: dict[Name, Variant] = Field(default_factory=dict)


def load_study(path: Path) -> StudyFile:
    """Read and check a study file; InvalidConfiguration names every wrong key."""
    try:
        return StudyFile.model_validate(read_toml(path, InvalidConfiguration))
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {explain(error)}", "docs/simulation.md lists every key.") from error
