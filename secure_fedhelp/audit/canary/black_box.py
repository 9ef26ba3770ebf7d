"""Black-box audit: mislabelled records as canaries in a hospital's whole round, seen only through what it answers.

A hospital runs a round of FedHelp, as in a study: warm start, public steps with a teacher, private steps. The auditor
chooses the public set, which is public: it holds the inputs of all canaries, and the teacher answers them rightly.
Each canary that its coin includes is a patient with that input and the *wrong* label. What leaves the hospital are the
model's answers on the public set, and a canary's score is how far they went towards the wrong label, compared with the
public start. Nothing else of the model is used.

This attack is weaker than the white-box one, since records pull at shared weights, so its bound stays further below the
claim. It sees what the other cannot: a way around the private steps, such as a teacher that has seen private records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.audit.canary.tally import Scale, Tally, right_guesses_at, same_event, toss
from secure_fedhelp.data.records import Inputs, Labels, PublicSet, Records
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.learning.models import parameter_count
from secure_fedhelp.learning.steps import public_steps, warm_model
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.study.methods import FedHelp as FedHelpOptions
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import LearningSection, PrivacySection, Tier

Logits = NDArray[np.float64]
#: One hospital's first round: (plan, hospital, records, public set, teacher's answers, noise) to what it would release.
Round = Callable[[StudyPlan, str, Records, PublicSet, Logits, NoiseSource], PrivateOutput]

HOSPITAL = "audited"
#: Enough features that every canary has a direction of its own.
_FEATURES = 512
_BYSTANDERS = 20
_SMALL, _LARGE = "mlp-16", "mlp-64"
#: How sure the teacher is, as a logit.
_CERTAINTY = 2.0
#: Public steps see the whole public set, so that what a teacher knows gets through; private steps are short, so that
#: answers move in proportion to what moved the weights.
_LEARNING = LearningSection(
    private_learning_rate=0.005,
    public_learning_rate=3e-3,
    public_steps=20,
    warm_steps=40,
    public_batch=256,
    pupil_steps=60,
    pupil_learning_rate=3e-3,
    personal_steps=1,
    personal_learning_rate=1e-3,
    home_batch=128,
)


def fedhelp_round(
    plan: StudyPlan, hospital: str, records: Records, public: PublicSet, teacher: Logits, noise: NoiseSource
) -> PrivateOutput:
    """The real thing: what :class:`FedHelp` hands to the release gate in its first round."""
    return FedHelp(Site(plan, hospital, records, public, teacher, noise)).contribute(0)


@dataclass(frozen=True, eq=False)
class _Material:
    """What the auditor prepares for one training; all of it is public but the coins."""

    plan: StudyPlan
    public: PublicSet
    teacher: Logits
    wrong: Labels
    bystanders: Records


def black_box(
    one_round: Round,
    privacy: PrivacySection,
    scale: Scale,
    noise: NoiseSource,
    tier: Tier,
    learning: LearningSection | None = None,
    method: FedHelpOptions | None = None,
) -> Tally:
    """Run ``scale.trainings`` rounds; guess whose wrong label each has learnt. ``noise`` also gives the coins."""
    correct, events = 0, []
    for number in range(scale.trainings):
        chosen = method or FedHelpOptions(), learning or _LEARNING
        material = _prepare(privacy, chosen, tier, scale.canaries, number)
        included = toss(scale.canaries, noise)
        records = _join(material, included)
        output = one_round(material.plan, HOSPITAL, records, material.public, material.teacher, noise)
        events.append(_training(output))
        answers = np.asarray(output.channels["public-logits"]).reshape(scale.canaries, 2)
        moved = _margin(answers, material.wrong) - _margin(_public_start(material), material.wrong)
        # What all canaries of one label have in common says nothing about one of them.
        scores = _centred(moved, material.wrong)
        correct += right_guesses_at(scores, included, scale.guesses)
    return Tally(same_event(events), scale, correct)


def _public_start(material: _Material) -> Logits:
    """What the model would answer before its private steps: anybody can compute it."""
    model = warm_model(material.plan, _SMALL, material.public, material.teacher)
    public_steps(model, material.plan, 0, material.public, material.teacher, None)
    return predict(model, material.public.inputs)


def _centred(values: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    means = np.bincount(labels, values, minlength=2) / np.maximum(np.bincount(labels, minlength=2), 1)
    return np.asarray(values - means[labels])


def _margin(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """How much the answers prefer each label to the other."""
    rows = np.arange(len(labels))
    return np.asarray(logits[rows, labels] - logits[rows, 1 - labels])


def _training(output: PrivateOutput) -> DpSgd:
    """The event that the round says it executed."""
    if len(output.events) != 1 or not isinstance(output.events[0], DpSgd):
        raise InvalidConfiguration("a training round must execute one DP-SGD event", "Audit a round that trains.")
    return output.events[0]


def _prepare(
    privacy: PrivacySection, chosen: tuple[FedHelpOptions, LearningSection], tier: Tier, canaries: int, number: int
) -> _Material:
    """Random inputs and labels from a public seed; the teacher knows the labels, the canaries' records contradict it.

    No rule connects them: a model that learns a canary's wrong label has seen it, and did not guess it from others.
    """
    rng = np.random.default_rng([canaries, number])
    inputs = rng.normal(size=(canaries + _BYSTANDERS, _FEATURES)).astype(np.float32)
    labels = rng.integers(2, size=canaries + _BYSTANDERS)
    public = PublicSet.of(inputs[:canaries], None)
    teacher = _CERTAINTY * np.stack([1.0 - 2.0 * labels, 2.0 * labels - 1.0], axis=1)
    names = tuple(f"bystander-{i}" for i in range(_BYSTANDERS))
    return _Material(
        plan=_plan(privacy, chosen, tier, public, canaries // 2 + _BYSTANDERS, number),
        public=public,
        teacher=teacher[:canaries],
        wrong=1 - labels[:canaries],
        bystanders=Records(inputs[canaries:], labels[canaries:], names),
    )


def _join(material: _Material, included: NDArray[np.bool_]) -> Records:
    """Bystanders with their right labels and included canaries with their wrong ones, one record each."""
    here, bystanders = np.flatnonzero(included), material.bystanders
    inputs: Inputs = np.concatenate([bystanders.inputs, material.public.inputs[here]])
    labels: Labels = np.concatenate([bystanders.labels, material.wrong[here]])
    return Records(inputs, labels, (*bystanders.patients, *(f"canary-{i}" for i in here)))


def _plan(
    privacy: PrivacySection,
    chosen: tuple[FedHelpOptions, LearningSection],
    tier: Tier,
    public: PublicSet,
    nominal: int,
    seed: int,
) -> StudyPlan:
    """A study of two hospitals on made-up tables, with these figures for privacy, method and learning."""
    method, learning = chosen
    values: dict[str, Any] = {
        "study": {"name": "canary-audit", "rounds": 1, "seed": seed},
        "consortium": "auditor",
        "data": {
            "dataset": "canaries",
            "kind": "table",
            "classes": ["no", "yes"],
            "input_shape": [_FEATURES],
            "columns": [{"name": f"x{i}", "kind": "numeric"} for i in range(_FEATURES)],
            "public_sha256": public.sha256,
            "public_records": len(public),
            "public_labelled": False,
        },
        "model": {"small": _SMALL, "large": _LARGE},
        # A class prior and rivals' learning rates belong to the plan's own data.
        "learning": learning.model_dump() | {"class_prior": (), "local_learning_rates": {}},
        "method": method.model_dump() | {"ranking_top": 1},  # two classes, whatever the plan has
        "privacy": {tier: privacy.model_dump()},
        "aggregation": {"profile": "standard", "minimum_cohort": 2},
        "channels": [
            {"name": "model-update", "length": parameter_count(_SMALL, (_FEATURES,), 2), "bound": 16.0},
            {"name": "public-logits", "length": 2 * len(public), "bound": 1e6},
        ],
        "hospitals": [{"name": name, "tier": tier, "nominal_patients": nominal} for name in (HOSPITAL, "another")],
    }
    return parse_plan(values, "the canary audit's plan")
