"""One run of a sweep, from its value alone: what came out for each hospital and model, and what it cost.

Encrypted runs are simulations (research/simulation.py): the deployed parties, ciphertexts, masks and ledgers, in a
folder that is thrown away. Plain runs are the same methods with sums of numbers in place of sums of ciphertexts, and
with the noise that sanitised sums carry.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidConfiguration, OneClassOnly, UnderQuorum
from secure_fedhelp.hospital.preparation import noise_seed
from secure_fedhelp.learning import baselines
from secure_fedhelp.learning.evaluation import predict, score
from secure_fedhelp.privacy.accountant import epsilon as epsilon_of
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.noise import NoiseName, SeededNoise
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import Cohort, cohort_of, counts_of, enough_of_each
from secure_fedhelp.research.demo_setup import create_run_folder
from secure_fedhelp.research.fitness import refusal, require_test_of_classes, unfit_hospitals
from secure_fedhelp.research.in_process import run_in_process
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan, without_privacy
from secure_fedhelp.research.results import collect
from secure_fedhelp.research.simulation import research_seed, run_simulation
from secure_fedhelp.research.sweep.data_file import require_unchanged
from secure_fedhelp.research.sweep.runs import COMMON_RIVALS, FREE, RIVALS, Run, shown_epsilon
from secure_fedhelp.research.teacher import teacher_of, together
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.plan import StudyPlan

#: What a budget means to a rival that has none.
_FREE_EPSILON = 8.0
#: Logits [n, classes] or [n, classes, height, width] of inputs [n, ...].
Answer = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@dataclass(frozen=True)
class HospitalResult:
    """One model at one hospital on the study's test set."""

    hospital: str
    tier: str
    #: ``shared``, ``personal``, or the rival's name.
    model: str
    metrics: dict[str, float]
    #: Of a figure on the hospital's own patients: how many they are, and how many of each class.
    home: HomeCounts | None = None


@dataclass(frozen=True)
class HomeCounts:
    """The hospital's own patients in the test part."""

    patients: int
    #: By the name of a class: patients with a record of it, or with a pixel of it.
    classes: dict[str, int]


@dataclass(frozen=True)
class RunResult:
    """One run: what it was, so that it can be run again, and what came out."""

    run: str
    study: str
    dataset: str
    contender: str
    #: The method's name and options as JSON; empty for a rival.
    method: str
    epsilon: str
    seed: int
    rounds: int
    encryption: str
    plan_sha256: str
    versions: str
    #: Largest epsilon that a hospital spent; None without privacy.
    epsilon_spent: float | None
    #: Bytes that one hospital sent, the mean over hospitals; in plain what float32 would take.
    bytes_up: float
    seconds: float
    hospitals: tuple[HospitalResult, ...]
    #: Who the data were of; None in results of a version that did not keep it.
    cohort: Cohort | None = None
    #: Of a rival: each hospital where it could not be trained, with the reason.
    untrained: tuple[str, ...] = ()


def execute(run: Run) -> RunResult:
    """Do one run. Raises the named errors of data, plan and study; DataChanged if its data file is another by now."""
    started = time.monotonic()
    study = run.study
    require_unchanged(study, run.data_sha256)
    data = study_data(study, run.data_dir)
    require_unchanged(study, run.data_sha256)  # nor may it have changed while it was read
    require_test_of_classes(data)
    unfit = {} if run.contender in COMMON_RIVALS else unfit_hospitals(study, data)
    if unfit and (run.contender not in RIVALS or len(unfit) == len(data.hospitals)):
        raise refusal(study, data, unfit)  # also in plain, which stands for a study that could be deployed
    private = not math.isinf(run.epsilon)
    if run.encrypted and not private:
        raise InvalidConfiguration("without privacy nothing may leave a hospital", "Run it in plain.")
    epsilon = run.epsilon if private else _FREE_EPSILON
    plan = study_plan(study.model_copy(update={"epsilon": epsilon}), data)
    if not private and run.contender not in FREE:
        plan = without_privacy(plan)
    spent, sent = None, 0.0
    if run.contender in RIVALS:
        found = tuple(_rival(run, plan, data, unfit))
        spent = None if run.contender in FREE or not private else _spent_alone(plan)
    elif run.encrypted:
        found, spent, sent = _simulated(run, plan, data)
    else:
        found, spent, sent = _plain(run, plan, data, private)
    return RunResult(
        run=run.id,
        study=study.name,
        dataset=study.label,
        contender=run.contender,
        method="" if run.contender in RIVALS else canonical_bytes(plan.method.model_dump(mode="json")).decode(),
        epsilon=shown_epsilon(run.epsilon),
        seed=study.seed,
        rounds=plan.study.rounds,
        encryption=run.encryption,
        plan_sha256=plan.hash,
        versions=run.versions,
        epsilon_spent=spent,
        bytes_up=sent,
        seconds=round(time.monotonic() - started, 2),
        hospitals=found,
        cohort=cohort_of(data),
        untrained=tuple(error.message for error in unfit.values()),
    )


def _simulated(run: Run, plan: StudyPlan, data: StudyData) -> tuple[tuple[HospitalResult, ...], float, float]:
    with tempfile.TemporaryDirectory(prefix="secure-fedhelp-") as folder:
        place = create_run_folder(Path(folder) / "run", overwrite=False)
        run_simulation(place, plan, data, Console(quiet=True), rivals=False, everybody=True)
        summary = collect(place, plan, run.study.label, 0.0, 0, data)
    found, sent = [], []
    for h in summary.hospitals:
        if h.study_model is None or h.personal_model is None or h.bytes_up is None:
            # A mean over the others could not be compared with one over all.
            raise UnderQuorum(f"{h.name} did not come through", "simulate --run does this run alone, and shows why.")
        for model, metrics in (("shared", h.study_model), ("personal", h.personal_model)):
            found.append(HospitalResult(h.name, h.tier, model, metrics.model_dump(exclude_none=True)))
        sent.append(h.bytes_up)
    return tuple(found), max(h.epsilon for h in summary.hospitals), float(np.mean(sent))


def _plain(
    run: Run, plan: StudyPlan, data: StudyData, private: bool
) -> tuple[tuple[HospitalResult, ...], float | None, float]:
    found, most = [], 0.0
    for name, method, spent in run_in_process(
        plan, data, _teachers(plan, data) or None, lambda name: _noise(run, plan, "from round 0", name)
    ):
        tier = plan.hospital(name).tier
        for kind, model in (("shared", method.shared_model()), ("personal", method.personalise())):
            found.append(_judged(partial(predict, model), data, (name, tier, kind)))
        most = max(most, spent)
    floats = sum(plan.length_of(number) for number in range(plan.study.rounds))
    return tuple(found), most if private else None, 4.0 * floats


def _rival(run: Run, plan: StudyPlan, data: StudyData, unfit: Collection[str]) -> Iterator[HospitalResult]:
    """What each hospital gets by a rival; those that know no hospital, and the pooled one, are the same for all.

    Nobody trains at a hospital that could not take part: its rival would be of records that no method may have.
    """
    kind = run.contender
    if kind in COMMON_RIVALS:
        answer = _common(kind, plan, data)
        for name, (tier, _) in data.hospitals.items():
            yield _judged(answer, data, (name, tier, kind))
        return
    warm = (data.public, _teacher(plan, data)) if kind.endswith("-warm") else (None, None)
    for name, (tier, records) in data.hospitals.items():
        if name in unfit:
            continue
        noise = _noise(run, plan, "alone" if kind == "local-dp" else kind, name)
        if kind.startswith("local-dp"):
            model = baselines.local_only(plan, name, records, noise, *warm)
        else:
            model = baselines.local_non_private(plan, name, records, *warm)
        yield _judged(partial(predict, model), data, (name, tier, kind))


def _common(kind: str, plan: StudyPlan, data: StudyData) -> Answer:
    """A rival that is one for all hospitals. Raises InvalidConfiguration if the study has not what it is made of."""
    if kind == "teacher":
        fitted = [teacher_of(plan, reference) for reference in data.references]
        if not fitted:
            raise InvalidConfiguration("the study has no teacher", "Leave `teacher` out of --methods.")
        return lambda inputs: together([teacher.logits(inputs) for teacher in fitted]).astype(np.float64)
    if kind == "public-labels":
        if data.public.labels is None:
            raise InvalidConfiguration("the public set has no labels", "Leave `public-labels` out of --methods.")
        model = baselines.public_only(plan, data.public, None)
    elif kind == "pooled":
        model = baselines.pooled(plan, _together(data), data.public, _teacher(plan, data))
    else:
        model = baselines.public_only(plan, data.public, _teacher(plan, data))
    return partial(predict, model)


def _judged(answer: Answer, data: StudyData, who: tuple[str, str, str]) -> HospitalResult:
    """``who`` is a hospital, its tier and the model: on the whole test part, and as ``home_...`` the utility on the
    hospital's own patients in it.

    Where hospitals are as they are, telling one's patients from another's can be half the score on all of them, and
    says nothing to a hospital about its own. A figure that ranks classes needs enough patients of each; Dice is a mean
    over images, each with a figure of its own.
    """
    found, own, home = score(answer(data.test.inputs), data.test.labels).as_dict(), data.home.get(who[0]), None
    utility = "dice" if "dice" in found else "auroc"
    if own is not None:
        names = data.data_section_fields["classes"]
        counts = counts_of(own, len(names))
        if utility == "dice" or enough_of_each(counts):
            with suppress(OneClassOnly):  # masks without a pixel of another class
                found[f"home_{utility}"] = score(answer(own.inputs), own.labels).as_dict()[utility]
        home = HomeCounts(counts.patients, dict(zip(names, counts.classes, strict=True)))
    return HospitalResult(*who, found, home)


def _spent_alone(plan: StudyPlan) -> float:
    """Largest epsilon of a hospital that takes the plan's private steps by itself: it answers no channel's question."""
    rounds = plan.training_rounds
    steps = {h.tier: [planned_event(plan.privacy[h.tier])] * rounds for h in plan.hospitals}
    return max(epsilon_of(events, plan.privacy[tier].delta) for tier, events in steps.items())


def _noise(run: Run, plan: StudyPlan, purpose: str, name: str) -> SeededNoise | Noiseless:
    """A hospital's noise, which is none without privacy: for rivals as for methods, since they share the plan.

    It is the noise that the hospital draws where the same run is simulated as deployed.
    """
    seed = noise_seed(research_seed(plan), name, purpose)
    return Noiseless(seed) if math.isinf(run.epsilon) else SeededNoise(seed)


def _together(data: StudyData) -> Records:
    """All hospitals' records. Who is a patient at two hospitals is two patients here: nobody may look them up."""
    parts = {name: records for name, (_, records) in data.hospitals.items()}
    return Records(
        np.concatenate([records.inputs for records in parts.values()]),
        np.concatenate([records.labels for records in parts.values()]),
        tuple(f"{name}/{patient}" for name, records in parts.items() for patient in records.patients),
    )


def _teachers(plan: StudyPlan, data: StudyData) -> tuple[NDArray[np.float32], ...]:
    """Each teacher's logits on the public set, as a hospital has them of its foundation models."""
    return tuple(teacher_of(plan, reference).logits(data.public.inputs) for reference in data.references)


def _teacher(plan: StudyPlan, data: StudyData) -> NDArray[np.floating] | None:
    """The same as one teacher's, for rivals."""
    answers = _teachers(plan, data)
    return together(answers, plan.learning.temperature) if answers else None


class Noiseless:
    """Coins as ever, and no noise: what a method would do without privacy.

    Its name is none that the release gate knows, so the gate lets nothing out that was made with it, whatever the plan.
    """

    def __init__(self, seed: bytes) -> None:
        self._coins = SeededNoise(seed)

    @property
    def name(self) -> NoiseName:
        return "none"  # type: ignore[return-value]  # on purpose no NoiseName

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return np.zeros(shape)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        return self._coins.poisson_mask(count, rate)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self._coins.uniform(count)
