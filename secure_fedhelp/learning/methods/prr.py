"""PRR: personalised, retrogress-resilient learning for imbalanced data (Chen, Yuan and others; MICCAI 2021, IEEE TMI
2022), behind the one-way valve.

Each hospital has two models: a *deputy* D that takes part, and a *personal* model P that never leaves. A round:

1. D takes the public steps and then the private ones, DP-SGD on the aligned loss (learning/alignment.py): event 0.
2. It says the low frequencies of D (``spectrum``, learning/spectrum.py): D's parameters in another basis. In the first
   round it also says how many patients it has of each class (``class-counts``), and from the round on whose answer is
   used, its sums of D's features by class (``prototypes``): two answers about the records, each an event of its own.
3. D takes the cohort's low frequencies and keeps its own high ones. P trains at home without noise, in some epochs,
   each of the stage that learning/stages.py chooses: P learns from D once D has recovered.

**The shared model is this hospital's deputy.** High frequencies and normalisation layers are its own, so no two
hospitals have the same one. What all do have in common is the *base*, the plan's initial weights moved by every sum:
uploads are differences to it. Biases and heads travel as they are *(ours)*: a head of two classes is a matrix of two
rows, their mean and their difference, and the box would hold the mean alone.

Where this departs from the papers *(ours)*: differential privacy; P is a *pupil*, so the table's KL(p to d) is off
(unless ``twin``); scores of the public set; what :mod:`~secure_fedhelp.learning.spectrum` says of the base and the
complex mean; the plan's class prior stands for the counts until they are known, and has no other part in the loss.

**Twin** (an option): P and D form one module, each patient's gradient of both losses of the stage is clipped jointly,
one event for both. Only then may P teach D, because only then is it protected itself.

**After a crash** between release and sum a round's own training is lost: D goes on with the high frequencies, and the
prototypes, of the round before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.alignment import AlignedLoss, gamma_weights, noised_counts, noised_sums, seesaw_weights
from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.measuring import one_record_each
from secure_fedhelp.learning.method import PUBLIC, Bounds, Said, Site
from secure_fedhelp.learning.models import Surrogate, TwoHeaded, flatten
from secure_fedhelp.learning.moments import Moments
from secure_fedhelp.learning.spectrum import Fourier, Kind, Part, band
from secure_fedhelp.learning.stages import Stage, epochs, next_stage, stage_score
from secure_fedhelp.learning.steps import fresh_model, home_steps, public_steps, taught_by, trained_model, warm_model
from secure_fedhelp.learning.twin import Twin, fresh_twin, of_both
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study import methods
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import ChannelSection, Tier

_HOME, _DRAW = 11, 12
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True, eq=False)
class _Trained:
    """What a round's training left at home, until the cohort's sum is there."""

    deputy: Vector
    personal: Vector | None
    prototypes: Vector | None


class Prr(Averaging):
    """PRR at one hospital; its switches are in study/methods.py. InvalidPlan if its channels are declared wrongly."""

    has_large = False  # every hospital has a personal model instead, a large one of its own network

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.options = self.plan.options(methods.Prr)
        self._require_declared()
        small = self.plan.model.small
        self.fourier = Fourier(parts(fresh_model(self.plan, small)), self.options.aggregation)
        self.deputy = flatten(warm_model(self.plan, small, site.public, site.answers))
        self.architecture = self.plan.model.of(site.tier)
        self.personal = self.deputy
        if self.architecture != small:
            self.personal = flatten(warm_model(self.plan, self.architecture, site.public, site.answers))
        self._moments = Moments()
        #: The cohort's patients of each class [classes], and sums of features [classes, features], all as released.
        self.counts: NDArray[np.float64] | None = None
        self.own_prototypes: NDArray[np.float64] | None = None
        self.cohort_prototypes: NDArray[np.float64] | None = None
        self._trained: _Trained | None = None

    @classmethod
    def lengths(cls, plan: StudyPlan) -> dict[str, int | tuple[int, ...]]:
        """``spectrum`` grows with the band. Counts are asked for once, since they do not change and each answer is
        paid for; prototypes in no round before the first that is used, and in none if the study ends before."""
        options, model, rounds = plan.options(methods.Prr), fresh_model(plan, plan.model.small), plan.training_rounds
        fourier, classes = Fourier(parts(model), options.aggregation), len(plan.data.classes)
        found: dict[str, int | tuple[int, ...]] = {
            "spectrum": tuple(fourier.length(_width(plan, number)) for number in range(rounds))
        }
        if options.cpa:
            found["class-counts"] = (classes, *[0] * (rounds - 1))
            aligned = options.aligned(plan.study.rounds)
            prototypes, first = classes * model.features, max(aligned - 1, 0)
            if aligned < rounds:
                found["prototypes"] = tuple(prototypes if number >= first else 0 for number in range(rounds))
        return found

    @classmethod
    def trained_privately(cls, plan: StudyPlan, tier: Tier) -> nn.Module:
        twin = plan.options(methods.Prr).twin
        return fresh_twin(plan, plan.model.of(tier)) if twin else super().trained_privately(plan, tier)

    @classmethod
    def channels(cls, plan: StudyPlan, bounds: Bounds) -> list[ChannelSection]:
        """Answers about records cost little beside the training: at noise 20 one alone has epsilon 0.2. A prototype's
        direction is all that counts, so features are cut to norm 1."""
        trained = {"bound": bounds.update, "mechanism": "dp-sgd"}
        answer = {"bound": bounds.logits, "mechanism": "gaussian", "combine": "sum"}
        answer |= {"sensitivity": 1.0, "noise_multiplier": 20.0}
        return [
            ChannelSection.model_validate(
                {"name": name, "length": length, **(trained if name == "spectrum" else answer)}
            )
            for name, length in cls.lengths(plan).items()
        ]

    def _require_declared(self) -> None:
        super()._require_declared()
        counts = next((c for c in self.plan.channels if c.name == "class-counts"), None)
        if counts is not None and counts.sensitivity != 1:
            raise InvalidPlan("channel class-counts: a patient counts once, so its sensitivity is 1")

    # -- a round -------------------------------------------------------------------------------------------------------

    def train(self, round_number: int) -> Said:
        model, personal = self.start(round_number), self.personal_model() if self.options.twin else None
        trained = self._private_steps(model, personal, round_number)
        deputy = flatten(model)
        values = {"spectrum": self.fourier.pack(deputy, self.base, _width(self.plan, round_number))}
        # The deputy's coordinates in another basis; only its own training is an event that is not paid for yet.
        proofs = {"spectrum": Proof.of("dp-sgd", "event:0", *PUBLIC)}
        answers = self._answers(model, round_number)
        values |= answers
        proofs |= {name: Proof.of("gaussian", f"event:{1 + n}", *PUBLIC) for n, name in enumerate(answers)}
        left = None if personal is None else flatten(personal)
        self._trained = _Trained(deputy, left, answers.get("prototypes"))
        return Said(values, proofs, (trained, *self._events(answers)))

    def start(self, round_number: int) -> TwoHeaded:
        """The deputy after the round's public steps. The warm start is behind it from the beginning."""
        model, site = self.shared_model(), self.site
        public_steps(model, self.plan, round_number, site.public, site.answers, self.ensemble())
        return model

    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        trained, self._trained, self._personal = self._trained, None, None
        heard, width = means["spectrum"], _width(self.plan, round_number)
        if trained is not None:
            self.deputy = trained.deputy
            self.personal = self.personal if trained.personal is None else trained.personal
            if trained.prototypes is not None:
                self.own_prototypes = self._by_class(trained.prototypes)
        self.deputy = self.fourier.recombine(self.deputy, self.base, heard, width)
        self.base = self.fourier.recombine(self.base, self.base, heard, width)
        if "class-counts" in means:
            # With noise a sum can fall below one patient, where a share would mean nothing.
            self.counts = np.maximum(means["class-counts"] / _scale(self.plan, "class-counts"), 1.0)
        if "prototypes" in means:
            self.cohort_prototypes = self._by_class(means["prototypes"])
        if not self.options.twin:
            self._train_personal(round_number)

    def losses(self, round_number: int) -> RecordLoss:
        """The task's loss of one record in a round, for both models. All in it was released, or is public."""
        options, prior = self.options, self.plan.learning.class_prior
        if not options.cpa:
            return self.task.losses
        counts = np.asarray(prior or [1.0] * len(self.plan.data.classes)) if self.counts is None else self.counts
        gamma = np.ones(len(counts))
        if round_number >= options.aligned(self.plan.study.rounds) and self.own_prototypes is not None:
            gamma = gamma_weights(self.own_prototypes, self._compared_with(round_number), self._tau)
        return AlignedLoss(seesaw_weights(counts, options.seesaw_power), gamma)

    @property
    def _tau(self) -> float:
        return self.options.tau or (1.0 if self.task.pixelwise else 3.0)

    # -- private training ----------------------------------------------------------------------------------------------

    def _private_steps(self, model: TwoHeaded, personal: TwoHeaded | None, round_number: int) -> DpSgd:
        """The round's DP-SGD on the deputy and, as a twin, on ``personal``: in parts, each of the stage it begins with.

        The stages follow from both models and the public set, so they cost nothing.
        """
        losses = self.losses(round_number)
        if personal is None:
            return self.noisy_steps(Surrogate(model), losses)
        stage, twin, done = None, Twin(model, personal), []
        for steps in epochs(self.site.privacy.steps, self.options.epochs):
            stage = self._next_stage(stage, personal, model)
            joint = twin_losses(stage, losses, self.plan.learning.temperature)
            done.append(self.noisy_steps(twin, joint, steps))
        return done[0].model_copy(update={"steps": sum(event.steps for event in done)})

    def _answers(self, model: TwoHeaded, round_number: int) -> dict[str, Vector]:
        """The round's gaussian channels in the plan's order: about one record of each patient, the same for all."""
        plan, noise, classes = self.plan, self.site.noise, len(self.plan.data.classes)
        names = [name for name in plan.lengths(round_number) if plan.channel(name).mechanism == "gaussian"]
        found: dict[str, Vector] = {}
        records = one_record_each(self.site.records, noise) if names else self.site.records
        for name in names:
            channel = plan.channel(name)
            if name == "class-counts":
                answer = noised_counts(records.labels, classes, channel, noise)
            else:
                answer = noised_sums(predict(model.extractor, records.inputs), records.labels, classes, channel, noise)
            found[name] = answer.ravel() * _scale(plan, name)
        return found

    def _events(self, names: Iterable[str]) -> list[Gaussian]:
        """What the answers were noised by. A comparison without privacy has no noise and so no event, and no gate lets
        it out, because it asks for the events of the plan."""
        return [
            Gaussian(noise_multiplier=channel.noise_multiplier, sensitivity=channel.sensitivity)
            for channel in map(self.plan.channel, names)
            if channel.noise_multiplier and channel.sensitivity
        ]

    def _compared_with(self, round_number: int) -> NDArray[np.float64]:
        """The cohort's prototypes; with ``gaussian_prototypes`` drawn around them, as far off as their noise *(ours)*.

        A coordinate of the cohort's mean feature has the standard deviation sigma C sqrt(hospitals) / n_c. Of masks n_c
        counts pixels and makes no mean; but it divides both, and of what is compared only the direction counts.
        """
        assert self.cohort_prototypes is not None, "heard together with the own"  # noqa: S101  # for the type checker
        assert self.counts is not None, "heard before prototypes"  # noqa: S101  # for the type checker
        channel = self.plan.channel("prototypes")
        means = self.cohort_prototypes / _scale(self.plan, "prototypes") / self.counts[:, None]
        if not self.options.gaussian_prototypes:
            return means
        released = (channel.noise_multiplier or 0.0) * (channel.sensitivity or 0.0) * len(self.plan.hospitals) ** 0.5
        drawn = self.site.rng(_DRAW, round_number).normal(size=means.shape)
        return np.asarray(means + drawn * released / self.counts[:, None])

    def _by_class(self, sums: Vector) -> NDArray[np.float64]:
        return sums.reshape(len(self.plan.data.classes), -1)

    # -- models --------------------------------------------------------------------------------------------------------

    def shared_model(self) -> TwoHeaded:
        """This hospital's deputy: the cohort's low frequencies, its own high ones and normalisation layers.

        All of it is under differential privacy: the own part came out of this hospital's DP-SGD.
        """
        return trained_model(self.plan, self.plan.model.small, self.deputy)

    def personal_model(self) -> TwoHeaded:
        """P as trained so far; at a large hospital the plan's large network."""
        return trained_model(self.plan, self.architecture, self.personal)

    def personalise(self) -> nn.Module:
        """P has been at home all along. A twin has had noise: at home it goes on without."""
        if self._personal is None:
            model = self.personal_model()
            self._personal = self.trained_at_home(model) if self.options.twin else model
        return self._personal

    def _train_personal(self, round_number: int) -> None:
        """The pupil's steps of a round, in epochs."""
        det, rng = self.options.det, self.site.rng(_HOME, round_number)
        (count, rate), temperature = self.home_share(round_number), self.plan.learning.temperature
        model, deputy, losses = self.personal_model(), self.shared_model(), self.losses(round_number)
        down, stage = taught_by(deputy, partial(soft_loss, temperature=temperature)), None  # KL(d to p)
        for steps in epochs(count, self.options.epochs):
            stage = self._next_stage(stage, model, deputy) if det else None
            lesson = down if stage is not None and stage.deputy_teaches else None
            home_steps(model, self.site.records, steps, rate, self.plan, rng, lesson, losses, self._moments)
        self.personal = flatten(model)

    def _next_stage(self, stage: Stage | None, personal: nn.Module, deputy: nn.Module) -> Stage:
        """By scores on the public set: on its labels, or else the teacher's answers. With neither all score alike."""
        public, answers = self.site.public, self.site.answers
        labels = public.labels
        if labels is None and answers:
            labels = np.mean(answers, axis=0).argmax(axis=1)
        scores = [0.0 if labels is None else stage_score(predict(m, public.inputs), labels) for m in (personal, deputy)]
        return next_stage(stage, scores[0], scores[1], self.options.recover, self.options.exchange)

    # -- between rounds ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[np.float64]]:
        heard = {
            "counts": self.counts,
            "own-prototypes": self.own_prototypes,
            "cohort-prototypes": self.cohort_prototypes,
        }
        kept = {name: values for name, values in heard.items() if values is not None}
        return super().state() | {"deputy": self.deputy, "personal": self.personal} | kept | self._moments.state()

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        super().restore(state)
        self.deputy, self.personal, self.counts = state["deputy"], state["personal"], state.get("counts")
        self._trained = None
        self.own_prototypes, self.cohort_prototypes = state.get("own-prototypes"), state.get("cohort-prototypes")
        self._moments.restore(state)


def twin_losses(stage: Stage, losses: RecordLoss, temperature: float) -> RecordLoss:
    """A stage's losses of both models, added, of each record of a :class:`Twin`."""

    def joint(deputy: Tensor, personal: Tensor, labels: Tensor) -> Tensor:
        total = losses(deputy, labels) + losses(personal, labels)
        if stage.deputy_teaches:
            total = total + soft_loss(deputy, personal, temperature, per_record=True)
        if stage.personal_teaches:
            total = total + soft_loss(personal, deputy, temperature, per_record=True)
        return total

    return of_both(joint)


def parts(model: TwoHeaded) -> list[Part]:
    """How each parameter travels: the extractor's weights in the spectrum, its biases and the heads as they are,
    normalisation layers not at all."""
    return [
        Part(tuple(p.shape), _kind(layer, p, model))
        for layer in model.modules()
        for p in layer.parameters(False)
        if p.requires_grad
    ]


def _kind(layer: nn.Module, parameter: nn.Parameter, model: TwoHeaded) -> Kind:
    if isinstance(layer, _NORMS):
        return "local"
    return "plain" if parameter.ndim < 2 or layer in (model.private_head, model.public_head) else "spectrum"


def _width(plan: StudyPlan, round_number: int) -> float:
    options = plan.options(methods.Prr)
    return band(round_number, plan.training_rounds, options.band_start, options.band_end)


def _scale(plan: StudyPlan, name: str) -> float:
    """What sums over patients are multiplied by on their way *(ours)*, so that twice as many patients as the largest
    hospital's nominal number fit the channel's bound: values of size 16 need a cheaper encryption than 3,000."""
    channel, patients = plan.channel(name), max(hospital.nominal_patients for hospital in plan.hospitals)
    return min(1.0, channel.bound / (2 * patients * (channel.sensitivity or 0.0)))
