"""The site policy: one TOML file that the hospital owns, and that no plan, server or researcher overrides.

:func:`all_clauses` compares it with a plan and :func:`broken_clauses` returns *every* clause the plan breaks, so that a
privacy officer reads them all at once; the client refuses to join while there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from secure_fedhelp.errors import InvalidPolicy, PolicyViolation
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.methods import BUILT_IN, Imported
from secure_fedhelp.study.plan import StudyPlan, explain, read_toml
from secure_fedhelp.study.reading import SETTINGS
from secure_fedhelp.study.sections import Strict

#: What metrics may leave, each allowing those before it.
_METRICS = ("local", "noised", "pooled", "research")

#: The URLs of the foundation models that a hospital would ask.
Asked = str | Sequence[str] | None


class SitePolicy(Strict):
    """What this hospital allows to leave. The defaults are the strict ones."""

    #: Largest epsilon of one study, and the largest delta, per patient.
    largest_epsilon: float = Field(default=3.0, gt=0)
    largest_delta: float = Field(default=1e-3, gt=0, lt=1)
    #: Largest epsilon of everything a patient takes part in, over all studies in this hospital's ledger, at the running
    #: study's delta. Absent: ``largest_epsilon``, so one study may use all of it.
    lifetime_epsilon: float | None = Field(default=None, gt=0)
    unit: Literal["patient"] = "patient"
    #: Columns of this hospital's files that name the patient. A plan says which one to go by; by a column of visits it
    #: would protect visits, and the ledger would take the same people for others.
    patient_columns: tuple[str, ...] = ("patient_id",)
    #: Fewest hospitals in a sum.
    smallest_cohort: int = Field(default=3, ge=2)
    #: Largest share of a sum's weight that one hospital may have, in any cohort of the plan. Weights are public, and
    #: the nearer the largest is to 1, the more the sum is that hospital's own contribution: a large hospital may want
    #: to say less than 1 here.
    largest_weight_share: float = Field(default=1.0, gt=0, le=1)
    #: Hospitals that, beside the coordinator (lying, if they must), must not be able to open an upload. 0 allows a plan
    #: without masks, where the coordinator and any one hospital together read everybody's contribution.
    smallest_coalition: int = Field(default=1, ge=0)
    channels_allowed: tuple[str, ...] = ("model-update", "public-logits", "metrics")
    #: Learning methods. An imported one is named by its path, because it is code that would run in this hospital.
    methods_allowed: tuple[str, ...] = BUILT_IN
    #: Networks, by patterns of names (``*`` stands for anything). An imported one (``package.module:function``) is code
    #: as a method is, and no pattern allows it: its whole path must stand here.
    models_allowed: tuple[str, ...] = ("mlp-*", "cnn-*", "resnet-*", "unet-*", "monai-*")
    #: Foundation model servers that may be asked (with public inputs only): scheme, host and port must be equal, and
    #: the path must lie at or below the one given.
    foundation_endpoints: tuple[str, ...] = ()
    #: What may leave of metrics on private records. ``local``: nothing. ``noised``: counts with noise that the ledger
    #: pays for, inside the encrypted sum. ``pooled``: also exact counts inside that sum, which is opened: no
    #: differential privacy. ``research``: also metrics on the plan's test set, in the study's summary, in clear.
    metrics: Literal["local", "noised", "pooled", "research"] = "local"
    #: Releases of exact counts (``pooled``) about one data set, over all studies. Between two of them nothing hides a
    #: patient who came or went.
    exact_releases: int = Field(default=1, ge=0)

    @property
    def lifetime(self) -> float:
        """The limit over all studies."""
        return self.largest_epsilon if self.lifetime_epsilon is None else self.lifetime_epsilon

    @property
    def hash(self) -> str:
        return digest(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Clause:
    """One clause held against a plan: its name, what the plan asks, what the policy allows, whether that breaks it."""

    clause: str
    plan: str
    policy: str
    broken: bool

    def __str__(self) -> str:
        return f"{self.clause}: the plan asks {self.plan}, the policy allows {self.policy}"


def load_policy(path: Path) -> SitePolicy:
    """Read and check a policy file; raises InvalidPolicy."""
    try:
        return SitePolicy.model_validate(read_toml(path, InvalidPolicy, SETTINGS))
    except ValidationError as error:
        raise InvalidPolicy(f"{path}: {explain(error)}") from error


def broken_clauses(policy: SitePolicy, plan: StudyPlan, hospital: str, foundation: Asked) -> list[Clause]:
    """Every clause of ``policy`` that ``plan`` breaks for ``hospital``; empty if it may be joined."""
    return [clause for clause in all_clauses(policy, plan, hospital, foundation) if clause.broken]


def all_clauses(policy: SitePolicy, plan: StudyPlan, hospital: str, foundation: Asked) -> list[Clause]:
    """Every clause of ``policy``, held against ``plan`` for ``hospital``."""
    privacy, aggregation, share = plan.privacy_of(hospital), plan.aggregation, _largest_share(plan)
    cohort, stands = aggregation.minimum_cohort, plan.coalition[1]
    masks = f"masks = {aggregation.masks} and cohorts from {cohort}, which stand a coalition of {stands} hospital(s)"
    refused = [c.name for c in plan.channels if c.name not in policy.channels_allowed]
    channels = ", ".join(refused or [c.name for c in plan.channels])
    methods = policy.methods_allowed
    method = plan.method.path if isinstance(plan.method, Imported) else plan.method.name
    strange = [m for m in (plan.model.small, plan.model.large) if not _model_allowed(m, policy.models_allowed)]
    models = ", ".join(dict.fromkeys(strange or [plan.model.small, plan.model.large]))
    asked: list[str] = [plan.metrics.release] if plan.metrics else []
    asked += ["research"] if plan.study.mode == "research" else []
    beyond = [kind for kind in asked if _METRICS.index(kind) > _METRICS.index(policy.metrics)]
    urls = () if foundation is None else (foundation,) if isinstance(foundation, str) else tuple(foundation)
    outside = [url for url in urls if not any(_covers(p, url) for p in policy.foundation_endpoints)]
    exact = int(plan.metrics is not None and plan.metrics.release == "pooled")

    def at_most(name: str, value: float, limit: float) -> Clause:
        return Clause(name, f"{value:g}", f"at most {limit:g}", value > limit)

    return [
        at_most("largest_epsilon", privacy.epsilon, policy.largest_epsilon),
        *([] if policy.lifetime_epsilon is None else [at_most("lifetime_epsilon", privacy.epsilon, policy.lifetime)]),
        at_most("largest_delta", privacy.delta, policy.largest_delta),
        Clause("unit", privacy.unit, policy.unit, privacy.unit != policy.unit),
        Clause(
            "patient_columns",
            column := plan.data.patient_id,
            ", ".join(policy.patient_columns) or "none",
            column not in policy.patient_columns,
        ),
        Clause("smallest_cohort", str(cohort), f"at least {policy.smallest_cohort}", cohort < policy.smallest_cohort),
        Clause(
            "smallest_coalition",
            masks,
            f"at least {policy.smallest_coalition} beside the coordinator",
            stands < policy.smallest_coalition,
        ),
        Clause(
            "largest_weight_share",
            f"{share:.2f} for one hospital in the smallest cohort",
            f"at most {policy.largest_weight_share:g}",
            share > policy.largest_weight_share,
        ),
        Clause("channels_allowed", channels, ", ".join(policy.channels_allowed) or "none", bool(refused)),
        Clause("methods_allowed", method, ", ".join(methods) or "none", method not in methods),
        Clause("models_allowed", models, ", ".join(policy.models_allowed) or "none", bool(strange)),
        Clause(
            "foundation_endpoints",
            ", ".join(outside or urls) or "none",
            ", ".join(policy.foundation_endpoints) or "none",
            bool(outside),
        ),
        Clause("metrics", f"{', '.join(beyond or asked) or 'no'} metrics", policy.metrics, bool(beyond)),
        Clause("exact_releases", str(exact), f"at most {policy.exact_releases}", exact > policy.exact_releases),
    ]


def _largest_share(plan: StudyPlan) -> float:
    """The largest share of a sum that one hospital may have: in the smallest cohort, beside the lightest others."""
    weights = sorted(plan.weights.values())
    return weights[-1] / (weights[-1] + sum(weights[: plan.aggregation.minimum_cohort - 1]))


def _model_allowed(name: str, allowed: tuple[str, ...]) -> bool:
    """A built-in name by a pattern; an import path by itself alone, or ``*`` would let any code in."""
    return name in allowed if ":" in name else any(fnmatchcase(name, pattern) for pattern in allowed)


def _covers(endpoint: str, url: str) -> bool:
    """Whether ``url`` is at or below ``endpoint``. A plain prefix would let teacher.example.evil.org pass."""
    try:
        allowed, asked = urlsplit(endpoint), urlsplit(url)
        same = (allowed.scheme, allowed.hostname, allowed.port) == (asked.scheme, asked.hostname, asked.port)
    except ValueError:
        return False
    path = allowed.path.rstrip("/")
    return same and "@" not in asked.netloc and ".." not in asked.path and (asked.path + "/").startswith(path + "/")


def require_allowed(policy: SitePolicy, plan: StudyPlan, hospital: str, foundation: Asked) -> None:
    """Raise PolicyViolation that names all broken clauses, or return."""
    broken = broken_clauses(policy, plan, hospital, foundation)
    if broken:
        listed = "; ".join(str(b) for b in broken)
        raise PolicyViolation(f"the plan breaks {len(broken)} clause(s) of the site policy: {listed}")
