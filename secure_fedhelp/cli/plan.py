"""``secure-fedhelp plan``: for whoever has to agree to a study plan before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from secure_fedhelp.secagg.facts import AttemptFacts, SumFacts
    from secure_fedhelp.study.plan import StudyPlan

app = typer.Typer(
    help="Read a study plan: what it costs, what it hides, and from whom.\n\n"
    "Example: secure-fedhelp plan show runs/demo/plan.toml",
    no_args_is_help=True,
)


@app.command("show")
def show(
    plan: Annotated[Path, typer.Argument(help="The study plan (TOML).")],
    policy: Annotated[Path | None, typer.Option(help="A site policy to compare the plan with.")] = None,
    hospital: Annotated[
        str | None, typer.Option(help="Whose policy it is; the plan's first hospital if absent.")
    ] = None,
) -> None:
    """Check a plan; print privacy, coalitions, drop-outs, errors and whether its networks can be trained.

    With a policy that the plan breaks, exit code 4. Networks and methods by import path are code from outside: they are
    imported and tried only with a policy that names them.

    Example: secure-fedhelp plan show plan.toml --policy st-anna/policy.toml --hospital st-anna
    """
    from secure_fedhelp.secagg.facts import attempt_facts, sum_facts
    from secure_fedhelp.study.plan import load_plan

    study, out = load_plan(plan), Console(highlight=False)
    facts = sum_facts(study)
    out.print(f"Study {study.study.name} of {study.consortium}, hash {study.hash}", markup=False, soft_wrap=True)
    privacy = "; ".join(f"{tier}: epsilon {p.epsilon:g} at delta {p.delta:g}" for tier, p in study.privacy.items())
    out.print(
        f"{len(study.hospitals)} hospitals, {study.study.rounds} rounds; for each patient {privacy}", markup=False
    )
    _print_masks(out, study, attempt_facts(study))
    _print_sums(out, study, facts)
    if policy is not None:
        _check_policy(out, study, policy, hospital)
    if study.imported and policy is None:
        out.print(
            f"\nNetworks: not tried, since {', '.join(study.imported)} is code from outside. With the --policy of a "
            "hospital that allows it, it is imported and tried.",
            markup=False,
            soft_wrap=True,
        )
        return
    print_trial(out, study)


@app.command("privacy")
def privacy(
    plan: Annotated[Path, typer.Argument(help="The study plan (TOML).")],
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Print the noise that keeps to this epsilon; repeatable. Default: 0.5, 1, 2, 3, 5 and 8."),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
) -> None:
    """What a plan costs its patients, round by round, and what it would cost if it were another. Takes some seconds.

    Example: secure-fedhelp plan privacy runs/demo/plan.toml --budget 2.5
    """
    from secure_fedhelp.cli.privacy_table import print_outlook, write_outlook
    from secure_fedhelp.privacy.what_if import BUDGETS, outlook
    from secure_fedhelp.study.plan import load_plan

    study = load_plan(plan)
    tiers = outlook(study, budget or BUDGETS)
    print_outlook(Console(highlight=False), study, tiers)
    if json_out is not None:
        write_outlook(json_out, study, tiers)


def print_trial(out: Console, plan: StudyPlan) -> None:
    """Try the plan's networks and say what trains them. This imports code that the plan names: ask a policy first."""
    from secure_fedhelp.learning.trial import try_networks

    for tried in try_networks(plan):
        out.print(f"Networks: {tried}.", markup=False, soft_wrap=True)


def _check_policy(out: Console, plan: StudyPlan, policy: Path, hospital: str | None) -> None:
    from secure_fedhelp.study.policy import load_policy, require_allowed

    name = hospital or plan.hospitals[0].name
    plan.require_listed(name)
    require_allowed(load_policy(policy), plan, name, None)
    said = "Which foundation models it would ask is not in a plan: 'hospital policy check' looks at that too."
    out.print(f"\nThe policy allows this plan for {name}. {said}", markup=False, soft_wrap=True)


def _print_masks(out: Console, plan: StudyPlan, attempts: list[AttemptFacts]) -> None:
    out.print()
    if plan.aggregation.masks == "none":
        out.print("No masks: the coordinator together with any one hospital can open every upload.", markup=False)
        return
    passive, active = plan.coalition
    out.print(
        f"Masks ({plan.aggregation.masks}): no upload opens to a coordinator that follows the protocol with {passive} "
        f"hospital(s) on its side, nor to one that lies with {active}.",
        markup=False,
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in (
        "hospitals in a round",
        "must stay",
        "repaired",
        "stands: follows",
        "lies",
        "holders / needed",
        "fails",
    ):
        table.add_column(heading, justify="right")
    for one in attempts:
        fails = "never" if one.graph.full else f"2^-{one.graph.failure_bits:.0f}"
        neighbours = "all" if one.graph.full else f"{one.graph.neighbours}/{one.graph.holders_needed}"
        figures = (one.members, one.needed, one.repaired, one.passive, one.active)
        table.add_row(*(str(figure) for figure in figures), neighbours, fails)
    out.print(table)


def _print_sums(out: Console, plan: StudyPlan, facts: SumFacts) -> None:
    chosen = facts.profile
    why = (
        f"picked for an error of at most {plan.aggregation.required_error:g}"
        if plan.aggregation.required_error
        else ("named by the plan")
    )
    lines = [
        f"Encryption: profile {chosen.name}, {why}; {chosen.security_bits} bits of security ({chosen.source}).",
        f"{plan.largest_length} values a round: {facts.up:.2f} bytes a value up, {facts.down:.2f} down (float32: 4).",
        f"Largest sum {facts.largest_sum:g}, the profile holds {chosen.largest_sum:.4g}; largest error of a value "
        f"{facts.error:.2g}.",
    ]
    if facts.flooding is None:
        lines.append("Sums are not sanitised: nothing computed from them may leave a hospital.")
    else:
        noise = facts.flooding
        lines.append(
            f"Sanitised: noise of standard deviation {noise.sigma:.2g} on a grid of {noise.grid:.2g} in every sum, "
            f"{noise.security_bits} bits over {noise.decryptions} decryptions of a key."
        )
    for line in lines:
        out.print(line, markup=False)
