"""``secure-fedhelp audit``: for whoever has the files of a study, no keys, and no trust in anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secure_fedhelp.cli import audit_canary, audit_report
from secure_fedhelp.cli.plain import plain

app = typer.Typer(
    help="Check a study from its files alone: recompute epsilon, verify every chain and signature.\n\n"
    "Example: secure-fedhelp audit verify runs/demo",
    no_args_is_help=True,
)
app.command("report")(audit_report.report)
app.command("canary")(audit_canary.canary)


@app.command("epsilon")
def epsilon(
    ledgers: Annotated[list[Path], typer.Argument(help="Ledger files (ledger.jsonl) of one or more hospitals.")],
    delta: Annotated[
        float | None, typer.Option(help="State epsilon at this delta; default: the smallest in each ledger.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The hospital's public key (hexadecimal) that must have signed; for one ledger.")
    ] = None,
    prv: Annotated[
        bool, typer.Option("--prv", help="Ask Opacus' accountants too, RDP and PRV; imports torch, some seconds.")
    ] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every digit to this file.")] = None,
) -> None:
    """Recompute epsilon from ledgers, by two accountants: by study, by data set, and over all of them.

    The last row is for a patient who is in every one of the ledgers; two copies of one ledger count once in it.

    Exit code 1 if a ledger does not verify, or if one key signed two that differ (a fork).

    Example: secure-fedhelp audit epsilon runs/demo/hospitals/*/ledger.jsonl
    """
    from secure_fedhelp.audit.epsilon import EpsilonReport, everywhere, recompute, require_no_fork
    from secure_fedhelp.cli.epsilon_table import Read, print_epsilons, write_epsilons
    from secure_fedhelp.errors import FedHelpError, InvalidPlan
    from secure_fedhelp.privacy import accountant

    if delta is not None:
        try:
            accountant.epsilon([], delta)  # a delta that means nothing is an error of its own
        except InvalidPlan as error:
            raise InvalidPlan(error.message, "Give --delta a number such as 1e-5.") from error
    read: list[Read] = []
    for path in ledgers:
        try:
            report = recompute(path, key, delta, prv)
            require_no_fork(path, report, ((r.path, r.result) for r in read if isinstance(r.result, EpsilonReport)))
            read.append(Read(path, report))
        except FedHelpError as error:
            read.append(Read(path, error))
    reports = [r.result for r in read if not isinstance(r.result, FedHelpError)]
    # What one ledger hides, no sum over the others can say.
    together = everywhere(reports, delta, prv) if len(reports) == len(read) else None
    print_epsilons(Console(), read, together)
    if json_out is not None:
        write_epsilons(json_out, read, together)
    if together is None:
        raise typer.Exit(1)


@app.command("verify")
def verify(
    run: Annotated[Path, typer.Argument(help="The run directory: plan.toml, coordinator/ and hospitals/.")],
    ca: Annotated[
        Path | None,
        typer.Option(help="Your own copy of the consortium's ca.crt; default: the run's, which proves less."),
    ] = None,
) -> None:
    """Verify a whole run: chains, signatures, that each upload was paid for, and that no ledger was cut short.

    Exit code 1 if anything does not hold.

    Example: secure-fedhelp audit verify runs/demo --ca ca.crt
    """
    import time

    from secure_fedhelp.audit.verify import verify_run
    from secure_fedhelp.errors import StorageError
    from secure_fedhelp.study.reading import CERTIFICATE, read_bounded

    try:
        own_ca = None if ca is None else read_bounded(ca, CERTIFICATE)
    except OSError as error:
        raise StorageError(f"cannot read {ca}: {error.strerror}", "Check the path.") from error
    findings = verify_run(run, time.time(), own_ca)
    table = Table("whose", "check", "", "detail", box=box.SIMPLE, pad_edge=False)
    subject = ""
    for f in findings:
        result = "[green]ok[/]" if f.ok else "[bold red]FAILED[/]"
        whose = "" if f.subject == subject else plain(f.subject)
        table.add_row(escape(whose), f.check, result, escape(plain(f.detail)))
        subject = f.subject
    console = Console()
    console.print(table)
    failed = [f for f in findings if not f.ok]
    for f in failed:  # again, uncut by columns: file, entry and reason on one line
        text = plain(f"{f.subject}, {f.check}: {f.detail}")
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(findings)} checks failed.", style="bold red")
        console.print("Keep the files as they are. Begin with the first failure of each: others may follow from it.")
        raise typer.Exit(1)
    console.print(f"All {len(findings)} checks hold.", style="green")
    if own_ca is None:
        console.print("By the run's own ca.crt, which whoever made the run can make, too: give your copy with --ca.")
