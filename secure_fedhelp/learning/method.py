"""What a learning method is: it says its channels for a round, trains at the hospital, and learns from the aggregates.

A method is a class in a file of its own (learning/methods/), made from a :class:`Site`. It says four things:

* :meth:`Method.lengths`: its channels and how long they are in each round; the plan fixes them for everybody.
  How a plan declares those that are not standard, :meth:`Method.channels` says.
* :meth:`Method.train`: one round of work on own records; what it says goes on the channels of the plan, each with the
  proof of where it comes from. The release gate asks for nothing else and lets nothing else out.
* :meth:`Method.learn`: the cohort's combined channels, into the next state.
* :meth:`Method.state` and :meth:`Method.restore`: what the next round needs, as arrays.

The coordinator knows no method, and a method knows no coordinator: no keys, no ciphertexts, no names of the others.
"""

from __future__ import annotations

import io
import pickle
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.errors import InvalidData, InvalidPlan, PlanChanged, PublicSetMismatch, StorageError
from secure_fedhelp.learning.evaluation import Metrics, evaluate
from secure_fedhelp.learning.measuring import PooledMetrics, count, leaving, one_record_each, pooled
from secure_fedhelp.learning.models import Surrogate
from secure_fedhelp.learning.steps import Logits, fresh_model
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, planned_events
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.study.channel import Vector, clip_to_bound
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import ChannelSection, PrivacySection, Tier

#: Public things that whatever a method says may come from besides its events; naming them costs nothing.
PUBLIC = ("public:plan", "public:public-set", "public:teacher", "public:transcript")
_COUNTS = "measured"
#: What torch raises on a checkpoint that is none.
_UNREADABLE = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError)


@dataclass(frozen=True, eq=False)
class Site:
    """All that a method gets at one hospital.

    ``records`` are private; ``teacher`` is a foundation model's logits on the public set, float [public records,
    *answer_shape], or a tuple of one or two models' logits; ``held_out`` are private records that nobody trains on, for
    a plan that measures.
    """

    plan: StudyPlan
    hospital: str
    records: Records
    public: PublicSet
    teacher: NDArray[np.floating] | tuple[NDArray[np.floating], ...] | None
    noise: NoiseSource
    held_out: Records | None = None

    @property
    def tier(self) -> Tier:
        return self.plan.hospital(self.hospital).tier

    @property
    def privacy(self) -> PrivacySection:
        return self.plan.privacy_of(self.hospital)

    @property
    def nominal_patients(self) -> int:
        return self.plan.hospital(self.hospital).nominal_patients

    @property
    def answers(self) -> tuple[Logits, ...]:
        """Each teacher's logits as float64; empty without one."""
        given = () if self.teacher is None else self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)
        return tuple(np.asarray(logits, dtype=np.float64) for logits in given)

    def rng(self, purpose: int, round_number: int) -> np.random.Generator:
        """Randomness for what stays at home (order of batches): public seed, own stream. Never a privacy noise."""
        name = zlib.crc32(self.hospital.encode())
        return np.random.default_rng([self.plan.study.seed, purpose, round_number, name])


@dataclass(frozen=True)
class Bounds:
    """How large a value of a channel may be, by what it carries: parameters or their change; logits, and answers as
    large; sketches of personal parts. A plan's author chooses them; what is beyond is cut."""

    update: float
    logits: float
    sketch: float


@dataclass(frozen=True)
class Said:
    """What one round of training says: a vector and a proof for each channel, and the events that were executed.

    Channels that the plan does not have in this round are left out by :class:`Method`; values beyond a channel's
    bound are cut there.
    """

    values: Mapping[str, Vector]
    proofs: Mapping[str, Proof]
    events: tuple[DpSgd | Gaussian | PooledExact, ...]
    #: For a channel of post-processing that also carries what this hospital released in an earlier round (from 0) and
    #: kept a part of at home: that round. The gate puts the release into the proof.
    carried: Mapping[str, int] = field(default_factory=dict)


class Method(ABC):
    """One method at one hospital. Rounds count from 0.

    Raises PublicSetMismatch, InvalidPlan if the plan's channels are not the method's, or InvalidData if the plan
    measures and no records are set aside.
    """

    def __init__(self, site: Site) -> None:
        self.site, self.plan = site, site.plan
        if site.public.sha256 != site.plan.data.public_sha256:
            raise PublicSetMismatch(f"{site.hospital}: the public set has another hash than the plan's")
        self._require_channels()
        if site.plan.metrics is not None and site.held_out is None:
            raise InvalidData(f"{site.hospital}: the plan measures the model, and no records are set aside for it")
        self._counts: Vector | None = None

    # -- what a method is ----------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def lengths(cls, plan: StudyPlan) -> dict[str, int | tuple[int, ...]]:
        """The channels that a study of ``plan`` needs: values in every training round, or a number for each.

        It looks at nothing but the plan, and not at the plan's own channels, so a plan can be made with it.
        """

    @classmethod
    def channels(cls, plan: StudyPlan, bounds: Bounds) -> list[ChannelSection]:
        """The channels of :meth:`lengths` as ``plan`` has to declare them, in their order.

        A method with channels of its own overrides it: what a value's mechanism is, and what one patient can change,
        only the method knows. InvalidPlan if it has such channels and does not.
        """
        limits = {"model-update": bounds.update, "public-logits": bounds.logits}
        lengths = cls.lengths(plan)
        if own := sorted(set(lengths) - set(limits)):
            raise InvalidPlan(
                f"channel {own[0]} is {cls.__name__}'s own, and it does not say how a plan declares it",
                "Give the class a method 'channels' (learning/method.py), or write the plan's channels by hand.",
            )
        fields = ({"name": name, "length": length, "bound": limits[name]} for name, length in lengths.items())
        return [ChannelSection.model_validate(field) for field in fields]  # what is standard is filled in

    @classmethod
    def trained_privately(cls, plan: StudyPlan, tier: Tier) -> nn.Module:
        """What DP-SGD trains at a hospital of ``tier``, at its initial weights: it is tried before a study begins.

        A method that trains something else than the plan's small network says so.
        """
        return Surrogate(fresh_model(plan, plan.model.small))

    @abstractmethod
    def train(self, round_number: int) -> Said:
        """One round on own records. It may be asked again after a crash, so it changes nothing that is kept."""

    @abstractmethod
    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        """Take in what the cohort said together, each channel combined as the plan says."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[np.float64]]:
        """Everything that the next round needs. It holds models of private records: it stays at home."""

    @abstractmethod
    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Go on from :meth:`state`; KeyError if something is missing."""

    @abstractmethod
    def shared_model(self) -> nn.Module:
        """The study's model: what the cohort has learnt together, under differential privacy."""

    @abstractmethod
    def personalise(self) -> nn.Module:
        """The model this hospital deploys: it has seen own records without noise, and is never to leave."""

    # -- what all methods have in common -------------------------------------------------------------------------------

    def contribute(self, round_number: int) -> PrivateOutput:
        """What this hospital hands to the release gate in a round; in the measuring round, what was counted."""
        said = self._measure() if round_number == self.plan.measuring_round else self.train(round_number)
        names = self.plan.lengths(round_number)
        return PrivateOutput(
            channels={n: clip_to_bound(v, self.plan.channel(n).bound)[0] for n, v in said.values.items() if n in names},
            events=said.events,
            proofs={name: proof for name, proof in said.proofs.items() if name in names},
            noise_source=self.site.noise.name,
            carried={name: earlier for name, earlier in said.carried.items() if name in names},
        )

    def absorb(self, round_number: int, means: dict[str, Vector]) -> None:
        """Take in a published round. After the measuring round the model stays as it was measured."""
        if round_number == self.plan.measuring_round:
            self._counts = means["metrics"]
        else:
            self.learn(round_number, means)

    def _require_channels(self) -> None:
        found = {c.name: c.length for c in self.plan.channels if c.mechanism != "counts"}
        if found != (needed := self.lengths(self.plan)):
            differ = sorted(name for name in found | needed if found.get(name) != needed.get(name))
            raise InvalidPlan(
                f"channel {differ[0]} has length {found.get(differ[0], 0)} in the plan, {self.plan.method.name} needs "
                f"{needed.get(differ[0], 0)}",
                "Make the plan's channels with the method's own lengths (docs/plan.md), and have it signed anew.",
            )

    def _require_declared(self) -> None:
        """For methods with channels of their own: InvalidPlan if the plan declares one for something else.

        Sums that were divided, or updates that were not, would be learnt from without anybody noticing.
        """
        for needed in self.channels(self.plan, Bounds(1.0, 1.0, 1.0)):
            found = self.plan.channel(needed.name)
            if (found.mechanism, found.combine) != (needed.mechanism, needed.combine):
                raise InvalidPlan(
                    f"channel {needed.name} is {found.mechanism} and {found.combine} in the plan, "
                    f"{self.plan.method.name} needs {needed.mechanism} and {needed.combine}",
                    "In docs/methods.md the method's table of channels says how each is declared.",
                )

    def _measure(self) -> Said:
        """How the shared model does on records set aside, and nothing else."""
        plan, site = self.plan, self.site
        assert plan.metrics is not None, "only a plan with metrics has such a round"  # noqa: S101  # for the type checker
        assert site.held_out is not None, "checked when this was made"  # noqa: S101
        classes, event = len(plan.data.classes), planned_events(plan, site.hospital, plan.study.rounds - 1)[0]
        counts = count(self.shared_model(), one_record_each(site.held_out, site.noise), plan.metrics, classes)
        proof = Proof.of(event.kind, "event:0", "public:transcript")
        return Said({"metrics": leaving(counts, plan.metrics, classes, site.noise)}, {"metrics": proof}, (event,))

    def pooled_metrics(self) -> PooledMetrics | None:
        """What the measuring round said of the study's model; None if there was none (yet)."""
        if self.plan.metrics is None or self._counts is None:
            return None
        return pooled(self._counts, self.plan.metrics, len(self.plan.data.classes))

    def evaluate(self, test: Records) -> dict[str, Metrics]:
        """Metrics of the study's model and of this hospital's own on held-out records."""
        return {"study_model": self.evaluate_shared(test), "personal_model": evaluate(self.personalise(), test)}

    def evaluate_shared(self, test: Records) -> Metrics:
        """Metrics of the study's model as it stands after the last absorbed round."""
        return evaluate(self.shared_model(), test)

    def export_models(self) -> dict[str, bytes]:
        """``shared`` and ``personal`` as ``torch.save`` files of their parameters, for this hospital's own use."""
        models = {"shared": self.shared_model(), "personal": self.personalise()}
        return {name: _torch_bytes(model.state_dict()) for name, model in models.items()}

    def save(self) -> bytes:
        """Everything the next round needs, as one checkpoint. It holds models of private records: keep it at home."""
        state = self.state() | ({} if self._counts is None else {_COUNTS: self._counts})
        arrays = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}
        return _torch_bytes({"plan": self.plan.hash, "hospital": self.site.hospital, "state": arrays})

    def load(self, data: bytes) -> None:
        """Go on from a checkpoint. Raises StorageError if it is damaged, PlanChanged if it is another study's.

        Only tensors and text are read (``weights_only``): a checkpoint cannot run code.
        """
        try:
            found = torch.load(io.BytesIO(data), weights_only=True)
            owner = found["plan"], found["hospital"]
            state = {str(name): values.numpy() for name, values in found["state"].items()}
        except _UNREADABLE as error:
            raise _damaged() from error
        if owner != (self.plan.hash, self.site.hospital):
            raise PlanChanged("the checkpoint belongs to another study or hospital")
        self._counts = state.pop(_COUNTS, None)
        try:
            self.restore(state)
        except KeyError as error:
            raise _damaged() from error


def _damaged() -> StorageError:
    return StorageError("the checkpoint is damaged", "Restore it from a backup, or start the study anew.")


def _torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
