"""``secure-fedhelp audit canary``: does the training code keep the epsilon that it claims?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secure_fedhelp.audit.canary.results import CanaryResult
    from secure_fedhelp.audit.canary.suite import Audit, Size


class TierName(StrEnum):
    """The tiers of a plan."""

    small = "small"
    large = "large"


def canary(
    plan: Annotated[Path | None, typer.Option(help="Audit one round of this study plan.")] = None,
    tier: Annotated[TierName, typer.Option(help="The plan's tier whose figures are audited.")] = TierName.small,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Without a plan: claims to audit; may be repeated. Default: 1, 2, 4, 8.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="State epsilon at this delta; default: the plan's, or 1e-5.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="That all bounds on the real code hold together.")] = 0.95,
    canaries: Annotated[int, typer.Option(help="Canaries in each white-box training.")] = 1000,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Four times as many trainings: sharper bounds, four times as long.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also plant mistakes in the code, each of which must be caught.")
    ] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
) -> None:
    """Audit the training code with planted canaries: a lower bound of epsilon beside what is claimed.

    Random canaries are put into trainings of the very code that a study uses, and guessed at from what comes out. Too
    many right guesses refute the claim. A bound below the claim does not prove the claim. Exit code 1 if a claim is
    refuted, or if a planted mistake is not caught.

    Example: secure-fedhelp audit canary --self-test --json canary.json
    """
    from secure_fedhelp.audit.canary.results import write_results
    from secure_fedhelp.audit.canary.suite import run, self_test_audits, size_of
    from secure_fedhelp.privacy.noise import SystemNoise
    from secure_fedhelp.research.bench.results import require_place

    if json_out is not None:
        require_place(json_out)
    size = size_of("full" if full else "quick", canaries)
    audits = _audits(plan, tier, epsilon, delta, size)
    if self_test:
        audits += self_test_audits(audits[0].subject.delta, size)
    with Console(stderr=True).status("") as status:

        def tell(number: int, audit: Audit) -> None:
            what = "planted mistake: " + audit.planted.replace("-", " ") if audit.planted else "real code"
            status.update(f"{number + 1} of {len(audits)}: {audit.kind}, {what}")

        results = run(audits, confidence, SystemNoise(), tell=tell)
    if json_out is not None:
        write_results(json_out, results)
    _print(Console(highlight=False), results)
    if not all(result.as_expected for result in results):
        raise typer.Exit(1)


def _audits(
    plan: Path | None, tier: TierName, epsilons: list[float] | None, delta: float | None, size: Size
) -> list[Audit]:
    from secure_fedhelp.audit.canary.suite import DELTA, EPSILONS, Subject, audits_of
    from secure_fedhelp.errors import InvalidConfiguration
    from secure_fedhelp.study.plan import load_plan

    if plan is not None and epsilons:
        raise InvalidConfiguration("--plan and --epsilon together", "A plan makes its own claim: give one of the two.")
    if plan is not None:
        subjects = [Subject.of_plan(load_plan(plan), tier.value, delta)]
    else:
        subjects = [Subject.of_epsilon(value, DELTA if delta is None else delta) for value in epsilons or EPSILONS]
    return [audit for subject in subjects for audit in audits_of(subject, size)]


def _print(out: Console, results: Sequence[CanaryResult]) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("audit", no_wrap=True)
    table.add_column("code", max_width=16)
    for heading in ("claimed", "bound", "any", "right", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for result in results:
        code = "real" if result.planted is None else result.planted.replace("-", " ")
        bounds = (f"{result.claimed_epsilon:.2f}", f"{result.lower_bound:.2f}", f"{result.assumption_free_bound:.2f}")
        right = f"{result.correct}/{result.guesses}"
        table.add_row(result.kind, code, *bounds, right, f"{result.seconds:.0f}", _verdict(result))
    out.print(table)
    _explain(out, results)


def _verdict(result: CanaryResult) -> str:
    if result.planted is None:
        return "[green]stands[/]" if result.holds else "[bold red]REFUTED[/]"
    return "[bold red]MISSED[/]" if result.holds else "[green]caught[/]"


def _explain(out: Console, results: Sequence[CanaryResult]) -> None:
    """What the table says, and what it does not."""
    first = results[0]
    lines = [] if first.tier is None else [f"Claimed is one training round of the plan's tier {first.tier}."]
    lines += [
        f"Epsilon at delta {first.delta:g}. 'bound': the claim is refuted if this reaches it, judged by the whole "
        "privacy curve of DP-SGD; 'any': a mostly looser bound that assumes nothing about the mechanism's curve, and "
        "decides nothing.",
        f"The bounds 'bound' on the real code hold together with probability {100 * first.joint_confidence:.6g}% (and "
        "so do those of 'any'): of runs on code that keeps its claims, at most "
        f"{100 * (1 - first.joint_confidence):.6g}% raise a false alarm.",
        *(f"{kind}: {text}" for kind, text in {r.kind: r.statement for r in results}.items()),
        "A bound below the claim does not prove the claim; it says that this attack did not break it.",
    ]
    for line in lines:
        out.print(line, markup=False)
    real = [r for r in results if r.planted is None]
    refuted, missed = [r for r in real if not r.holds], [r for r in results if r.planted and r.holds]
    out.print()
    if refuted:
        out.print(f"Claims refuted: {len(refuted)} of {len(real)} audits.", style="bold red")
    else:
        out.print(f"The claim stands in all {len(real)} audits.", style="green")
    if missed:
        out.print(f"Planted mistakes not caught: {len(missed)}.", style="bold red")
    elif len(results) > len(real):
        out.print(f"All {len(results) - len(real)} planted mistakes were caught.", style="green")
