"""The studies' plans: one tuned set of public constants a dataset, and the noise that makes them fit a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import UnknownDataset
from secure_fedhelp.learning import models
from secure_fedhelp.learning.method import Bounds
from secure_fedhelp.learning.methods import method_class
from secure_fedhelp.learning.task import class_frequencies
from secure_fedhelp.privacy.accountant import noise_for_budget
from secure_fedhelp.privacy.mechanisms import Gaussian, study_events
from secure_fedhelp.research.catalog import PARTS, StudyData
from secure_fedhelp.research.study_file import PrivacyPart, StudyFile, Weights
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.methods import FedHelp, MethodSection
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import Tier
from secure_fedhelp.study.threshold import Masks

#: Largest error of a value of a sum, the noise of sanitised sums included; the values' bounds are 4 and 16.
REQUIRED_ERROR = 0.01


@dataclass(frozen=True)
class TierDefaults:
    """Share of patients a step draws, and private steps a round."""

    sampling_rate: float
    steps: int


@dataclass(frozen=True)
class StudyDefaults:
    """Everything a plan fixes that the data does not. ``learning`` holds a plan's [learning] section."""

    small: str
    large: str
    learning: dict[str, Any]
    tiers: dict[Tier, TierDefaults]
    clipping_norm: float = 1.0
    weights: Weights = "precision"
    rounds: int = 8
    epsilon: float = 3.0
    #: Below one over the patients of the largest hospital, and below every hospital's share of one patient.
    delta: float = 1e-4
    update_bound: float = 4.0
    logit_bound: float = 16.0
    sketch_bound: float = 6.0
    #: Taken where nobody names a method.
    method: MethodSection = field(default_factory=FedHelp)


_IMAGE_LEARNING: dict[str, Any] = {
    "public_learning_rate": 3e-4,
    "public_steps": 3,
    "warm_steps": 200,
    "public_batch": 32,
    "pupil_steps": 40,
    "pupil_learning_rate": 1e-3,
    "personal_steps": 100,
    "personal_learning_rate": 3e-4,
    "home_soft_weight": 1.0,
}
_TABLE_LEARNING: dict[str, Any] = {
    "private_learning_rate": 0.5,
    "public_learning_rate": 3e-3,
    "public_steps": 5,
    "warm_steps": 60,
    "public_batch": 16,
    "pupil_steps": 5,
    "pupil_learning_rate": 1e-3,
    "personal_steps": 20,
    "personal_learning_rate": 1e-3,
    "home_soft_weight": 1.0,
}

DEFAULTS: dict[str, StudyDefaults] = {
    "breast-cancer": StudyDefaults(
        small="mlp-54",
        large="mlp-128-64",
        learning=_TABLE_LEARNING | {"local_learning_rates": {"small": 0.03}},
        tiers={"large": TierDefaults(0.3, 5), "small": TierDefaults(0.3, 5)},
    ),
    "heart": StudyDefaults(
        small="mlp-60",
        large="mlp-128-64",
        learning=_TABLE_LEARNING
        | {"local_learning_rates": {"large": 0.3, "small": 0.03, "large-warm": 0.5, "small-warm": 0.1}},
        tiers={"large": TierDefaults(0.3, 5), "small": TierDefaults(0.3, 5)},
    ),
    "pneumonia": StudyDefaults(
        small="cnn-8-16-20",
        large="cnn-16-32-64",
        learning=_IMAGE_LEARNING
        | {
            "private_learning_rate": 0.05,
            "local_learning_rates": {"small": 0.005, "large-warm": 0.01, "small-warm": 0.001},
        },
        tiers={"large": TierDefaults(0.1, 10), "small": TierDefaults(0.3, 10)},
        clipping_norm=10.0,
    ),
    # Few patients and many parameters: noise is large beside them, so private steps are short and at a high rate.
    "retina": StudyDefaults(
        small="unet-small",
        large="unet-large",
        learning=_IMAGE_LEARNING
        | {
            "private_learning_rate": 0.02,
            "local_learning_rates": {"large": 0.002, "small": 0.002, "large-warm": 0.02, "small-warm": 0.002},
            "public_learning_rate": 3e-3,
            "public_batch": 8,
            "warm_steps": 100,
            "pupil_steps": 60,
            "pupil_learning_rate": 3e-3,
            "personal_steps": 50,
            "personal_learning_rate": 1e-3,
            "home_batch": 8,
        },
        tiers={"large": TierDefaults(0.3, 3), "small": TierDefaults(0.3, 3)},
        rounds=5,
        method=FedHelp(logit_pool=4),
    ),
    "breast": StudyDefaults(
        small="cnn-8-16-20",
        large="cnn-16-32-64",
        learning=_IMAGE_LEARNING
        | {
            "private_learning_rate": 0.01,
            "local_learning_rates": {"small": 0.03, "large-warm": 0.0003, "small-warm": 0.0003},
        },
        tiers={"large": TierDefaults(0.3, 5), "small": TierDefaults(0.3, 5)},
        clipping_norm=10.0,
    ),
}


#: Data of a researcher's own, by kind: the figures of the tables, of BreastMNIST, a small image set, and with masks
#: those of the retina.
OWN: dict[str, StudyDefaults] = {
    "table": DEFAULTS["breast-cancer"],
    "image": DEFAULTS["breast"],
    "segmentation": DEFAULTS["retina"],
}


def constants_sha256(study: StudyFile) -> str:
    """A hash over what a plan takes from this file, and how many patients are set aside: a result is of these figures
    too, which may change between two states of the code that have one version.

    Of own data all of :data:`OWN`, since which of them are taken is seen only in the data.
    """
    taken = {study.dataset: DEFAULTS.get(study.dataset)} if study.dataset else OWN
    values = {
        kind: asdict(found) | {"method": found.method.model_dump(mode="json")} for kind, found in taken.items() if found
    }
    parts = {study.dataset: PARTS[study.dataset].model_dump()} if study.dataset in PARTS else {}
    return digest({"defaults": values, "parts": parts, "required_error": REQUIRED_ERROR})


def study_plan(study: StudyFile, data: StudyData) -> StudyPlan:
    """The plan of a study file for its data; raises InvalidPlan if its values make none."""
    defaults = study_defaults(study, data)
    # Delta stays below one over the patients of the largest hospital, whose nominal number is public.
    largest = max(nominal(records.n_patients) for _, records in data.hospitals.values())
    while defaults.delta >= 1 / largest:
        defaults = replace(defaults, delta=defaults.delta / 10)
    return build_plan(
        study.label,
        data,
        study.rounds,
        study.epsilon,
        study.seed,
        study.masks,
        study.method,
        study.learning,
        defaults,
    )


def study_defaults(study: StudyFile, data: StudyData) -> StudyDefaults:
    """The figures of the data set, with those of the study file in their place."""
    fields = data.data_section_fields
    defaults = DEFAULTS[study.dataset] if study.dataset else _own(fields)
    if study.model is not None:
        defaults = replace(defaults, small=study.model.small, large=study.model.large)
    if study.privacy is not None:
        defaults = _with_steps(defaults, study.privacy)
    if study.weights is not None:
        defaults = replace(defaults, weights=study.weights)
    return defaults


def _own(fields: Mapping[str, Any]) -> StudyDefaults:
    """Of own data by kind; the retina's pooling only as far as the sides of the images allow."""
    defaults = OWN[fields.get("task", fields["kind"])]
    if isinstance(defaults.method, FedHelp) and (most := defaults.method.logit_pool) > 1:
        pool = math.gcd(most, *fields["input_shape"][1:])
        return replace(defaults, method=defaults.method.model_copy(update={"logit_pool": pool}))
    return defaults


def _with_steps(defaults: StudyDefaults, part: PrivacyPart) -> StudyDefaults:
    """The data set's private steps with those of ``[privacy]`` in their place."""
    tiers = {
        tier: TierDefaults(part.sampling_rate.get(tier, usual.sampling_rate), part.steps.get(tier, usual.steps))
        for tier, usual in defaults.tiers.items()
    }
    return replace(defaults, tiers=tiers, clipping_norm=part.clipping_norm or defaults.clipping_norm)


def build_plan(
    dataset: str,
    study: StudyData,
    rounds: int | None,
    epsilon: float | None,
    seed: int,
    masks: Masks = "repairing",
    method: MethodSection | None = None,
    learning: Mapping[str, Any] | None = None,
    defaults: StudyDefaults | None = None,
) -> StudyPlan:
    """The plan of a research study on ``dataset``; ``rounds`` and ``epsilon`` None take the defaults, and ``learning``
    replaces some of them. ``defaults`` are the data set's if absent.

    The noise multiplier of each tier is the smallest with which all private steps of all rounds, beside what the
    method's gaussian channels ask, stay within ``epsilon`` at the plan's delta (PLD accountant).
    """
    if defaults is None and dataset not in DEFAULTS:
        raise UnknownDataset(f"no dataset is called {dataset!r}")
    defaults = defaults or DEFAULTS[dataset]
    rounds = defaults.rounds if rounds is None else rounds
    epsilon = defaults.epsilon if epsilon is None else epsilon
    classes = len(study.data_section_fields["classes"])
    values: dict[str, Any] = {
        "study": {"name": f"{dataset}-demo", "rounds": rounds, "seed": seed, "mode": "research"},
        "consortium": "demo-consortium",
        "method": (method or defaults.method).model_dump(mode="json"),
        "data": study.data_section_fields,
        "model": _model(defaults, study.data_section_fields, seed),
        "learning": {"class_prior": _public_prior(study.public, classes), **defaults.learning, **(learning or {})},
        "privacy": {
            tier: _privacy(defaults, defaults.tiers[tier], rounds, epsilon)
            for tier in sorted({tier for tier, _ in study.hospitals.values()})
        },
        "aggregation": {
            "required_error": REQUIRED_ERROR,
            "minimum_cohort": 3,
            "weights": defaults.weights,
            "masks": masks,
        },
        "channels": [{"name": "model-update", "length": 1, "bound": defaults.update_bound}],
        "hospitals": [
            {"name": name, "tier": tier, "nominal_patients": nominal(records.n_patients)}
            for name, (tier, records) in study.hospitals.items()
        ],
    }
    source = f"plan of {dataset}"
    draft = parse_plan(values, source)  # all but its channels, which the method says
    bounds = Bounds(defaults.update_bound, defaults.logit_bound, defaults.sketch_bound)
    sections = method_class(draft.method).channels(draft, bounds)
    channels = [section.model_dump(mode="json") for section in sections]
    plan = parse_plan(values | {"channels": channels}, source)
    name = plan.hospitals[0].name
    answers = [e for e in study_events(plan, name) if isinstance(e, Gaussian)]  # the same at every hospital
    if not answers:
        return plan
    privacy = {
        tier: _privacy(defaults, defaults.tiers[tier], rounds, epsilon, answers) for tier in sorted(plan.privacy)
    }
    return parse_plan(values | {"channels": channels, "privacy": privacy}, source)


def without_privacy(plan: StudyPlan) -> StudyPlan:
    """The same plan for a run without noise, in which weights follow what a step draws.

    Gradients are clipped as ever: what differs from the plan is the noise, and not the length of the steps that its
    learning rate was chosen for.

    Gaussian channels get a noise multiplier of 0, which no plan that is read can have: for such a one there are no
    planned events (InvalidPlan). And no release gate takes what was made without noise (execute.Noiseless). What a
    patient brings to these channels stays cut to their sensitivity, by which they are scaled.
    """
    section = {"noise_multiplier": 1.0}
    privacy = {tier: p.model_copy(update=section) for tier, p in plan.privacy.items()}
    channels = tuple(
        c.model_copy(update={"noise_multiplier": 0.0}) if c.mechanism == "gaussian" else c for c in plan.channels
    )
    return plan.model_copy(update={"privacy": privacy, "channels": channels})


def _model(defaults: StudyDefaults, fields: Mapping[str, Any], seed: int) -> dict[str, str]:
    """The networks; of those from outside also the SHA-256 of what no training changes in them."""
    section = {"small": defaults.small, "large": defaults.large}
    for tier, architecture in list(section.items()):
        if ":" in architecture:
            network = models.build(architecture, fields["input_shape"], len(fields["classes"]), seed)
            found = models.constants_sha256(network)
            section |= {f"{tier}_constants": found} if found else {}
    return section


def _public_prior(public: PublicSet, classes: int) -> tuple[float, ...]:
    """Class frequencies of the public set, or of its pixels; none where it has no labels."""
    return () if public.labels is None else class_frequencies(public.labels, classes)


def nominal(patients: int) -> int:
    """A public round number for a hospital's patients: down to a multiple of five, from ten on."""
    return patients if patients < 10 else patients // 5 * 5


def _privacy(
    defaults: StudyDefaults, tier: TierDefaults, rounds: int, epsilon: float, others: Sequence[Gaussian] = ()
) -> dict[str, Any]:
    steps = rounds * tier.steps
    return {
        "sampling_rate": tier.sampling_rate,
        "noise_multiplier": noise_for_budget(epsilon, defaults.delta, tier.sampling_rate, steps, others),
        "clipping_norm": defaults.clipping_norm,
        "steps": tier.steps,
        "epsilon": epsilon,
        "delta": defaults.delta,
    }
