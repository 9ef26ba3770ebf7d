"""FedHelp: large hospitals help small ones (Wang, Yin, You, Lyu, Ma; KDD 2025), behind the one-way valve.

A hospital's round, and what each step costs:

1. :meth:`FedHelp.contribute` starts from the common base. **Public steps** train extractor and public head on the
   public set, its teacher answers and the last ensemble: free. **Private steps** train extractor and private head by
   DP-SGD on own records: one event, paid for by whoever releases the output. A small hospital calls the result its
   *surrogate*, a large one its *proxy*: same shape, same training.
2. It hands over two channels: ``model-update`` (new minus base, all parameters) and ``public-logits`` (the trained
   model's answers on the public set), the second by post-processing of the first's training.
3. :meth:`FedHelp.absorb` takes the cohort's means: the base moves by the mean update, the mean logits are the ensemble.
   A large hospital also trains its **large model** here: own records without noise, and the ranking towards the
   shared model. That model is a *pupil*: it never leaves and never teaches anything that does.

Where this departs from the paper *(ours)*: differential privacy; the proxy learns without the large model (unless
``twin``); the private head starts as a copy of the public one and both heads are uploaded; the exchanged logits; the
ranking reads the shared model instead of the proxy; and every hospital's personal model.

**Twin** (``plan.learning.twin``): large model and proxy form one module, each patient's gradient of
CE(proxy) + KL(large || proxy) + CE(large) + eta R clipped jointly, one event for both. Only then may the large model
teach the proxy, because only then is it protected itself.
"""

from __future__ import annotations

import io
import pickle
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.errors import InvalidData, PlanChanged, PublicSetMismatch, StorageError
from secure_fedhelp.learning.distillation import ranking_loss, soft_loss
from secure_fedhelp.learning.evaluation import Metrics, evaluate, predict
from secure_fedhelp.learning.measuring import PooledMetrics, count, leaving, one_record_each, pooled
from secure_fedhelp.learning.models import Surrogate, TwoHeaded, flatten, load_flat
from secure_fedhelp.learning.steps import ExtraLoss, fresh_model, home_steps, public_steps, warm_model
from secure_fedhelp.learning.task import Task
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact, planned_events
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.privacy.training import train_private
from secure_fedhelp.study.channel import Vector, clip_to_bound
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import LearningSection

_HOME, _PERSONAL = 3, 4


class FedHelp:
    """The method at one hospital. Rounds count from 0; ``records`` never leave this object except through DP-SGD.

    ``teacher_logits`` float [public records, classes] or None; ``held_out`` are private records that nobody trains on,
    for a plan that measures. Raises PublicSetMismatch, or InvalidData if a plan measures and there are none.
    """

    def __init__(
        self,
        plan: StudyPlan,
        hospital: str,
        records: Records,
        public: PublicSet,
        teacher_logits: NDArray[np.floating] | None,
        noise: NoiseSource,
        held_out: Records | None = None,
    ) -> None:
        if public.sha256 != plan.data.public_sha256:
            raise PublicSetMismatch(f"{hospital}: the public set has another hash than the plan's")
        if plan.metrics is not None and held_out is None:
            raise InvalidData(f"{hospital}: the plan measures the model, and no records are set aside for it")
        self._plan, self._hospital, self._records, self._public, self._noise = plan, hospital, records, public, noise
        self._held_out = held_out
        self._teacher = None if teacher_logits is None else np.asarray(teacher_logits, dtype=np.float64)
        self._tier, self._task = plan.hospital(hospital).tier, Task.of(plan)
        # The plan's initial weights and nothing else: a hospital without a teacher must have the same base as all.
        self._base = flatten(fresh_model(plan, plan.model.small))
        self._ensemble: NDArray[np.float64] | None = None
        self._large: NDArray[np.float64] | None = None
        if self._tier == "large":
            self._large = flatten(warm_model(plan, plan.model.large, public, self._teacher))
        self._personal: nn.Module | None = None
        self._twin_large: NDArray[np.float64] | None = None
        self._counts: NDArray[np.float64] | None = None

    # -- a round -------------------------------------------------------------------------------------------------------

    def contribute(self, round_number: int) -> PrivateOutput:
        """Train from the base for one round; nothing is remembered but the twin's half, so it can be done again."""
        plan = self._plan
        if round_number == plan.measuring_round:
            return self._measure(plan)
        model = self._start(round_number)
        public_steps(model, plan, round_number, self._public, self._teacher, self._ensemble)
        event = self._train_privately(model, round_number)
        raw = {
            "model-update": flatten(model) - self._base,
            "public-logits": predict(model, self._public.inputs).ravel(),
        }
        start = ("public:plan", "public:public-set", "public:teacher", "public:transcript")
        proofs = {
            "model-update": Proof.of("dp-sgd", "event:0", *start),
            "public-logits": Proof.of("post-processing", "event:0", *start),
        }
        return self._output(raw, proofs, event)

    def _measure(self, plan: StudyPlan) -> PrivateOutput:
        """The last round of a plan with metrics: how the shared model does on records set aside, and nothing else."""
        assert plan.metrics is not None, "only a plan with metrics has such a round"  # noqa: S101  # for the type checker
        assert self._held_out is not None, "checked when this was made"  # noqa: S101
        classes, event = len(plan.data.classes), planned_events(plan, self._hospital, plan.study.rounds - 1)[0]
        counts = count(self.shared_model(), one_record_each(self._held_out, self._noise), plan.metrics, classes)
        raw = {"metrics": leaving(counts, plan.metrics, classes, self._noise)}
        return self._output(raw, {"metrics": Proof.of(event.kind, "event:0", "public:transcript")}, event)

    def _output(
        self, raw: dict[str, Vector], proofs: dict[str, Proof], event: DpSgd | Gaussian | PooledExact
    ) -> PrivateOutput:
        """Those of the values that the plan has a channel for in this round."""
        plan = self._plan
        names = [name for name in raw if name in {c.name for c in plan.channels}]
        return PrivateOutput(
            channels={name: clip_to_bound(raw[name], plan.channel(name).bound)[0] for name in names},
            events=(event,),
            proofs={name: proofs[name] for name in names},
            noise_source=self._noise.name,
        )

    def absorb(self, round_number: int, means: dict[str, Vector]) -> None:
        """Move to the cohort's mean. The base follows from plan and sums alone, so it is the same at every hospital."""
        if round_number == self._plan.measuring_round:
            self._counts = means["metrics"]  # of all hospitals; the model stays as it was measured
            return
        self._base, self._personal = self._base + means["model-update"], None
        if "public-logits" in means:
            self._ensemble = means["public-logits"].reshape(len(self._public), len(self._plan.data.classes))
        if self._tier != "large":
            return
        if not self._plan.learning.twin:
            self._teach_pupil(round_number)
        elif self._twin_large is not None:
            self._large, self._twin_large = self._twin_large, None

    def _start(self, round_number: int) -> TwoHeaded:
        """The base; in the first round after the warm start on the public set, which costs nothing."""
        if round_number == 0:
            return warm_model(self._plan, self._plan.model.small, self._public, self._teacher)
        return self.shared_model()

    def _train_privately(self, model: TwoHeaded, round_number: int) -> DpSgd:
        """The round's DP-SGD steps on ``model``, in place."""
        learning, twin = self._plan.learning, self._plan.learning.twin and self._tier == "large"
        joint = Twin(model, self._large_model(), self._task, learning) if twin else None
        event = train_private(
            joint or Surrogate(model),
            joint.losses if joint else self._task.losses,
            self._records,
            self._plan.privacy_of(self._hospital),
            self._plan.hospital(self._hospital).nominal_patients,
            learning.private_learning_rate,
            self._noise,
        )
        if joint:
            self._twin_large = flatten(joint.large_parts[0])
        return event

    def _teach_pupil(self, round_number: int) -> None:
        """Asymmetric distillation, weak to strong: own labels, and only the order of the shared model's answers."""
        learning, model, rng = self._plan.learning, self._large_model(), self._rng(_HOME, round_number)
        lesson = self._lesson(learning.ranking_weight)
        home_steps(model, self._records, learning.pupil_steps, learning.pupil_learning_rate, self._plan, rng, lesson)
        self._large = flatten(model)

    def _lesson(self, ranking_weight: float) -> ExtraLoss:
        """What the shared model teaches one that stays at home: an order, and as much of the rest as the plan says."""
        learning, shared = self._plan.learning, self.shared_model()

        def lesson(inputs: Tensor, logits: Tensor) -> Tensor:
            with torch.no_grad():
                answers = shared(inputs)
            order = ranking_weight * ranking_loss(answers, logits, learning.ranking_top)
            return order + learning.home_soft_weight * soft_loss(answers, logits, learning.temperature)

        return lesson

    # -- what the hospital keeps ---------------------------------------------------------------------------------------

    def shared_model(self) -> TwoHeaded:
        """The study's model: what the cohort has learnt together, under differential privacy."""
        model = fresh_model(self._plan, self._plan.model.small)
        load_flat(model, self._base)
        return model

    def personalise(self) -> nn.Module:
        """The model this hospital deploys: trained at home without noise, and never to leave.

        A small hospital goes on from a copy of the shared model, a large one uses its large model.
        """
        if self._personal is None:
            learning = self._plan.learning
            model = self._large_model() if self._tier == "large" else self.shared_model()
            if self._tier == "small" or learning.twin:
                rate, rng, lesson = learning.personal_learning_rate, self._rng(_PERSONAL, 0), self._lesson(0.0)
                home_steps(model, self._records, learning.personal_steps, rate, self._plan, rng, lesson)
            self._personal = model
        return self._personal

    def evaluate(self, test: Records) -> dict[str, Metrics]:
        """Metrics of the study's model and of this hospital's own on held-out records."""
        return {"study_model": self.evaluate_shared(test), "personal_model": evaluate(self.personalise(), test)}

    def evaluate_shared(self, test: Records) -> Metrics:
        """Metrics of the study's model as it stands after the last absorbed round."""
        return evaluate(self.shared_model(), test)

    def pooled_metrics(self) -> PooledMetrics | None:
        """What the measuring round said of the study's model; None if there was none (yet)."""
        metrics = self._plan.metrics
        if metrics is None or self._counts is None:
            return None
        return pooled(self._counts, metrics, len(self._plan.data.classes))

    def export_models(self) -> dict[str, bytes]:
        """``shared`` and ``personal`` as ``torch.save`` files of their parameters, for this hospital's own use.

        The personal model has seen this hospital's records without noise: it is not to leave the building.
        """
        models = {"shared": self.shared_model(), "personal": self.personalise()}
        return {name: _torch_bytes(model.state_dict()) for name, model in models.items()}

    def save(self) -> bytes:
        """Everything the next round needs, as one checkpoint. It holds models of private records: keep it at home."""
        state: dict[str, object] = {
            "plan": self._plan.hash,
            "hospital": self._hospital,
            "base": torch.from_numpy(self._base),
        }
        for name, values in (("ensemble", self._ensemble), ("large", self._large), ("counts", self._counts)):
            if values is not None:
                state[name] = torch.from_numpy(values)
        return _torch_bytes(state)

    def load(self, data: bytes) -> None:
        """Go on from a checkpoint. Raises StorageError if it is damaged, PlanChanged if it is another study's.

        Only tensors and text are read (``weights_only``): a checkpoint cannot run code.
        """
        try:
            state = torch.load(io.BytesIO(data), weights_only=True)
            plan, hospital, base = state["plan"], state["hospital"], state["base"].numpy()
        except (RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise StorageError(
                "the checkpoint is damaged", "Restore it from a backup, or start the study anew."
            ) from error
        if (plan, hospital) != (self._plan.hash, self._hospital):
            raise PlanChanged("the checkpoint belongs to another study or hospital")
        self._base, self._personal = base, None
        self._ensemble = state["ensemble"].numpy() if "ensemble" in state else None
        self._large = state["large"].numpy() if "large" in state else self._large
        self._counts = state["counts"].numpy() if "counts" in state else None

    # -- small things --------------------------------------------------------------------------------------------------

    def _large_model(self) -> TwoHeaded:
        model = fresh_model(self._plan, self._plan.model.large)
        assert self._large is not None, "only large hospitals have a large model"  # noqa: S101  # for the type checker
        load_flat(model, self._large)
        return model

    def _rng(self, purpose: int, round_number: int) -> np.random.Generator:
        """Home randomness (order of batches): public seed, own stream. Never a source of privacy noise."""
        return np.random.default_rng(
            [self._plan.study.seed, purpose, round_number, zlib.crc32(self._hospital.encode())]
        )


class Twin(nn.Module):
    """Proxy and large model as one module, clipped jointly: logits [b, 2 * classes], the proxy's first."""

    def __init__(self, proxy: TwoHeaded, large: TwoHeaded, task: Task, learning: LearningSection) -> None:
        super().__init__()
        self.proxy, self.large = Surrogate(proxy), Surrogate(large)
        self.large_parts = [large]  # in a list, so that its public head is no part of this module
        self._task, self._learning = task, learning

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.proxy(inputs), self.large(inputs)], dim=1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """CE(proxy) + KL(large || proxy) + CE(large) + eta R(proxy, large), one value a record."""
        weak, strong = outputs.chunk(2, dim=1)
        down = soft_loss(strong, weak, self._learning.temperature, per_record=True)
        up = ranking_loss(weak, strong, self._learning.ranking_top, per_record=True)
        own = self._task.losses(weak, labels) + self._task.losses(strong, labels)
        return own + down + self._learning.ranking_weight * up


def _torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
