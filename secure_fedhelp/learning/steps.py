"""Steps that cost no privacy: on the public set, and at home on records whose model never leaves.

Nothing here may touch a private record *and* end in an upload: :func:`public_steps` sees public things only, and what
:func:`home_steps` trains stays in the hospital.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.data.records import Inputs, PublicSet, Records
from secure_fedhelp.errors import InvalidPlan, UnsupportedModel
from secure_fedhelp.learning.common_work import CommonWork, key_of
from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.models import TwoHeaded, build, constants_sha256, load_flat
from secure_fedhelp.learning.moments import Moments
from secure_fedhelp.learning.task import Task
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study.plan import StudyPlan

Logits = NDArray[np.float64]
#: What foundation models answer on the public set: one model's logits, or those of each of two.
Teachers = Logits | tuple[Logits, ...] | None
#: (inputs, logits) of a home batch to a further loss, such as the ranking towards the ensemble.
ExtraLoss = Callable[[Tensor, Tensor], Tensor]

#: Separates the streams of public batches from each other. They order what is public, so who else uses the plan's seed
#: does not matter.
_WARM, _PUBLIC = 1, 2
#: Public steps follow from the model that they start from and from public things, so what one did serves all.
COMMON = CommonWork()


def fresh_model(plan: StudyPlan, architecture: str) -> TwoHeaded:
    """The plan's initial weights of an architecture; UnsupportedModel if it does not answer what the plan asks."""
    model = build(architecture, plan.data.input_shape, len(plan.data.classes), plan.study.seed)
    if model.pixelwise != plan.data.masked:
        answers = "each pixel" if model.pixelwise else "each record"
        raise UnsupportedModel(f"{architecture} has an answer for {answers}, and the plan's task is {plan.data.task}")
    _require_known_constants(plan, architecture, model)
    return model


def _require_known_constants(plan: StudyPlan, architecture: str, model: TwoHeaded) -> None:
    """InvalidPlan unless what no training changes in ``model`` is what the plan's hospitals have signed.

    A private gradient depends on it: of weights that one hospital trained on its patients no budget would know.
    """
    named, found = plan.model.constants(architecture), constants_sha256(model)
    if named == found:
        return
    key = "small_constants" if architecture == plan.model.small else "large_constants"
    if found is None:
        raise InvalidPlan(f"model.{key}: {architecture} has no frozen parameters or buffers", "Leave the key out.")
    if named is None:
        raise InvalidPlan(
            f"{architecture} has frozen parameters or buffers, and the plan does not say which values they have",
            f'If they are public, write {key} = "{found}" into [model], and have the plan signed anew.',
        )
    raise InvalidPlan(
        f"{architecture} is made here with other frozen parameters or buffers than the plan's {key}",
        f"Use the same version of the code, the weights and PyTorch as the plan's author; here it is {found}.",
    )


def trained_model(plan: StudyPlan, architecture: str, parameters: NDArray[np.float64]) -> TwoHeaded:
    """An architecture with ``parameters``, as :func:`flatten` gives them."""
    model = fresh_model(plan, architecture)
    load_flat(model, parameters)
    return model


def warm_model(
    plan: StudyPlan, architecture: str, public: PublicSet, teacher: Teachers, more_steps: int = 0
) -> TwoHeaded:
    """The initial weights after ``warm_steps`` public steps, and ``more_steps`` in the same go.

    A function of the plan, the public set and the teacher's answers alone: hospitals with one teacher make the same.
    """
    model = fresh_model(plan, architecture)
    _public_steps(model, plan, plan.learning.warm_steps + more_steps, public, teacher, None, [_WARM])
    model.adopt_public_head()
    return model


def public_steps(
    model: TwoHeaded,
    plan: StudyPlan,
    round_number: int,
    public: PublicSet,
    teacher: Teachers,
    ensemble: tuple[Logits, float] | None,
) -> None:
    """One round's public steps, in place; the same everywhere, since their order follows from plan and round.

    ``ensemble``: further logits that the private head distils, and their weight.
    """
    _public_steps(model, plan, plan.learning.public_steps, public, teacher, ensemble, [_PUBLIC, round_number])


def taught_by(teacher: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> ExtraLoss:
    """A loss of (the ``teacher``'s answers, logits) for :func:`home_steps`; the teacher is never trained by it."""
    teacher.eval()  # a teacher with random layers would answer at random

    def lesson(inputs: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            answers = teacher(inputs)
        return loss(answers, logits)

    return lesson


def home_steps(
    model: nn.Module,
    records: Records,
    steps: int,
    learning_rate: float,
    plan: StudyPlan,
    rng: np.random.Generator,
    extra: ExtraLoss | None = None,
    losses: RecordLoss | None = None,
    moments: Moments | None = None,
) -> None:
    """AdamW steps on own records without noise, in place: the model must never leave, nor teach one that does.

    ``losses`` takes the place of the task's own, ``extra`` is added. With ``moments`` the optimizer goes on where the
    last call left it.
    """
    losses, learning = losses or Task.of(plan).losses, plan.learning
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=learning.weight_decay, fused=True)
    if moments is not None:
        moments.load_into(optimizer, model)
    model.train()
    for batch in _batches(len(records), learning.home_batch, steps, rng):
        inputs, labels = torch.from_numpy(records.inputs[batch]), torch.from_numpy(records.labels[batch])
        logits = model(inputs)
        loss = losses(logits, labels).mean()
        if extra is not None:
            loss = loss + extra(inputs, logits)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if moments is not None:
        moments.keep(optimizer, model)
    for p in model.parameters():
        p.grad = None


def _public_steps(
    model: TwoHeaded,
    plan: StudyPlan,
    steps: int,
    public: PublicSet,
    teacher: Teachers,
    ensemble: tuple[Logits, float] | None,
    stream: list[int],
) -> None:
    """Public steps in the order that seed and ``stream`` say; where nothing teaches, none."""
    teachers = () if teacher is None else teacher if isinstance(teacher, tuple) else (teacher,)
    if not (public.labels is not None or teachers or ensemble is not None):
        return
    rng = np.random.default_rng([plan.study.seed, *stream])
    answers, weight = ensemble if ensemble is not None else (None, 0.0)
    settings = {
        "stream": [plan.study.seed, *stream],
        "steps": steps,
        "learning": plan.learning.model_dump(mode="json"),
        "data": plan.data.model_dump(mode="json"),
        "public": public.sha256,
        "ensemble": weight,
    }
    key = key_of(model, settings, answers, *teachers)
    COMMON.once(key, model, lambda: _train_public(model, plan, steps, public, teachers, ensemble, rng))


def _train_public(
    model: TwoHeaded,
    plan: StudyPlan,
    steps: int,
    public: PublicSet,
    teachers: tuple[Logits, ...],
    ensemble: tuple[Logits, float] | None,
    rng: np.random.Generator,
) -> None:
    """Auxiliary: CE(g_pub, y) where labels exist + mu KL(teacher || g_pub). Surrogate: KL(ensemble || g_prv).

    Of two teachers the divergences from each are averaged: they may disagree, and neither is asked to know both.
    """
    task, learning = Task.of(plan), plan.learning
    optimizer = torch.optim.Adam(model.parameters(), lr=learning.public_learning_rate, fused=True)
    model.train()
    for batch in _batches(len(public), learning.public_batch, steps, rng):
        private, auxiliary = model.both(torch.from_numpy(public.inputs[batch]))
        loss = auxiliary.sum() * 0.0
        if public.labels is not None:
            loss = loss + task.losses(auxiliary, torch.from_numpy(public.labels[batch])).mean()
        for logits in teachers:
            taught = soft_loss(_tensor(logits[batch]), task.natural(auxiliary), learning.temperature)
            loss = loss + learning.teacher_weight / len(teachers) * taught
        if ensemble is not None:
            answers, weight = ensemble
            loss = loss + weight * soft_loss(_tensor(answers[batch]), private, learning.temperature)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for p in model.parameters():
        p.grad = None


def _batches(count: int, size: int, steps: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """``steps`` batches of at most ``size`` of ``count`` records, each pass in a fresh order."""
    size = min(size, count)
    batches: list[NDArray[np.int64]] = []
    order = rng.permutation(count)
    while len(batches) < steps:
        if len(order) < size:
            order = rng.permutation(count)
        batches.append(order[:size])
        order = order[size:]
    return batches


def _tensor(values: NDArray[np.float64] | Inputs) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
