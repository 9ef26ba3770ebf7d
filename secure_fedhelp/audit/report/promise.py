"""What is promised to a patient, in plain words, and what canaries found about it."""

from __future__ import annotations

from collections.abc import Sequence

from secure_fedhelp.audit.canary.results import CanaryResult
from secure_fedhelp.audit.report.budget import everywhere
from secure_fedhelp.audit.report.model import Budget, Empirical, Guarantee, Meaning, Measurement, plain
from secure_fedhelp.audit.report.words import belief, counted, percent_down, percent_up
from secure_fedhelp.audit.verify import Run
from secure_fedhelp.pages import numbers
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.study.plan import StudyPlan

UNIT = (
    "The unit is the patient: all records that one hospital holds under one patient identifier. Training draws "
    "patients, not records, with a probability that is public and the same for all, and takes one record of each "
    "patient drawn; a patient with ten records weighs no more than one with a single record."
)
NEIGHBOURS = (
    "Two collections of records are neighbours if one is the other with exactly one patient, and all of that patient's "
    "records, added or removed. Epsilon and delta bound how differently everything that a hospital released could have "
    "come out for two such neighbours."
)
EPSILON = (
    "Think of somebody who sees everything that a hospital sent, in clear, and knows all other patients. Whatever they "
    "believed about one patient, taking part or not can move the odds of that belief by at most the factor e to the "
    "power of epsilon, except with a probability of about delta. It is a ceiling for the cleverest observer and the "
    "most unusual patient, not a forecast, and it counts all rounds of the study together. It does not stop anybody "
    "from learning what is true of patients in general, and applying that to one who took no part."
)
NOT_MEASURED = (
    "Not measured for this report: no claim was put to the test of an attack. To measure, run 'secure-fedhelp audit "
    "canary --plan plan.toml --self-test --json canary.json', and make the report again with '--canary canary.json'."
)

UNTOUCHED = "The code that trains was not attacked, only code with mistakes planted in it."
#: How the figures of an attacked training are called if they are those of this study.
THIS_PLAN = "this plan's"


def guarantee(run: Run, budgets: Sequence[Budget]) -> Guarantee:
    ever = everywhere(run)
    return Guarantee(
        unit=UNIT,
        neighbours=NEIGHBOURS,
        epsilon=EPSILON,
        meanings=_meanings(budgets),
        everywhere=None if ever is None else ever[0],
        everywhere_delta=None if ever is None else ever[1],
    )


def _meanings(budgets: Sequence[Budget]) -> tuple[Meaning, ...]:
    """For each epsilon that was spent, as it is printed: rounded up."""
    groups: dict[tuple[str, float], list[str]] = {}
    for budget in budgets:
        if budget.pld is not None:
            groups.setdefault((numbers.epsilon(budget.pld), budget.delta), []).append(budget.hospital)
    return tuple(
        Meaning(
            hospitals=tuple(of),
            epsilon=float(shown),
            delta=delta,
            odds=numbers.odds(float(shown)),
            from_even=percent_up(belief(0.5, float(shown))),
            from_one_percent=percent_up(belief(0.01, float(shown))),
        )
        for (shown, delta), of in sorted(groups.items(), key=lambda item: (-float(item[0][0]), item[0][1]))
    )


def empirical(results: Sequence[CanaryResult], run: Run | None) -> Empirical:
    """What canaries found. A bound below the claim does not prove the claim."""
    if not results:
        return Empirical(said=NOT_MEASURED)
    real = [r for r in results if r.planted is None]
    planted = [r for r in results if r.planted is not None]
    refuted = [r for r in real if not r.holds]
    said = [f"The code that trains was attacked in {counted(len(real), 'audit')}." if real else UNTOUCHED]
    if real and refuted:
        said.append(f"{counted(len(refuted), 'claim')} refuted: the training leaked more than the ledger says.")
    elif real:
        said.append("No claim was refuted; that is no proof of a claim, only a failed attempt at disproof.")
    if real:
        # Union bound over whatever is in the file, which may be of several runs.
        together = max(1 - sum(1 - r.confidence for r in real), 0.0)
        said.append(
            f"The bounds 'at least' hold together with a confidence of {percent_down(together)}, and so do those that "
            "assume nothing."
        )
    if planted:
        caught = sum(not r.holds for r in planted)
        said.append(f"Of {counted(len(planted), 'mistake')} planted on purpose {caught} were caught.")
    said.append(
        "Claimed is the epsilon of the training that was attacked (with a plan's figures: one round), not of a whole "
        "study. The audits ran on the machine of whoever made them, with the same code, not at the hospitals."
    )
    return Empirical(said=" ".join(said), measurements=tuple(_measurement(r, run) for r in [*real, *planted]))


def _measurement(result: CanaryResult, run: Run | None) -> Measurement:
    event = result.event
    if result.plan is None:
        figures = "chosen for the audit"
    elif run is not None and result.plan == run.plan.hash:
        figures = _figures(result, run.plan)
    else:
        figures = "another plan's"
    return Measurement(
        kind=result.kind,
        planted=None if result.planted is None else result.planted.replace("-", " "),
        figures=figures,
        training=f"{counted(event.steps, 'step')} at rate {event.sampling_rate:g}, noise {event.noise_multiplier:g}",
        claimed=result.claimed_epsilon,
        delta=result.delta,
        lower_bound=result.lower_bound,
        assumption_free_bound=result.assumption_free_bound,
        confidence=result.confidence,
        trainings=result.trainings,
        canaries=result.canaries,
        ok=result.as_expected,
        statement=plain(result.statement),
    )


def _figures(result: CanaryResult, plan: StudyPlan) -> str:
    """A file that names this plan need not have its figures: it carries no signature."""
    section = None if result.tier is None else plan.privacy.get(result.tier)
    if section is None or result.event != planned_event(section):
        return f"not {THIS_PLAN}, which the file names"
    return f"{THIS_PLAN}, {result.tier} tier"
