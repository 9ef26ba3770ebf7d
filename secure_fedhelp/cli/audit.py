"""``secure-fedhelp audit``: for whoever has the files of a study, no keys, and no trust in anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Check a study from its files alone: recompute epsilon, verify every chain and signature.\n\n"
    "Example: secure-fedhelp audit verify runs/demo",
    no_args_is_help=True,
)


@app.command("epsilon")
def epsilon(
    ledgers: Annotated[list[Path], typer.Argument(help="Ledger files (ledger.jsonl) of one or more hospitals.")],
    delta: Annotated[
        float | None, typer.Option(help="State epsilon at this delta; default: the smallest in each ledger.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The hospital's public key (hexadecimal) that must have signed; for one ledger.")
    ] = None,
) -> None:
    """Recompute epsilon from ledgers, by two accountants. Exit code 1 if a ledger does not verify.

    Example: secure-fedhelp audit epsilon runs/demo/hospitals/small-1/ledger.jsonl
    """
    from secure_fedhelp.audit.epsilon import recompute
    from secure_fedhelp.errors import FedHelpError

    # Figures are never cut to fit a narrow terminal; the file and the full key stand on lines of their own below.
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("hospital", "unit", "delta", "entries", "epsilon (PLD)", "by RDP", "noise"):
        table.add_column(heading, no_wrap=True)
    sources: list[str] = []
    failures: list[FedHelpError] = []
    for path in ledgers:
        try:
            report = recompute(path, key, delta)
        except FedHelpError as error:
            failures.append(error)
            table.add_row("[bold red]FAILED[/]", *[""] * 6)
            sources.append(f"FAILED: {path}")
            continue
        figures = (f"{report.delta:g}", str(report.entries), f"{report.pld:.4f}", f"{report.rdp:.4f}")
        table.add_row(report.hospital, report.unit, *figures, ", ".join(report.noise_sources))
        sources.append(f"{report.hospital}: {path}, signed by {report.public_key or 'nobody'}")
    console = Console()
    console.print(table)
    for line in sources:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for failure in failures:
        console.print(f"{type(failure).__name__}: {failure.message}\nhint: {failure.hint}", style="red", markup=False)
    if failures:
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

    try:
        own_ca = None if ca is None else ca.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {ca}: {error.strerror}", "Check the path.") from error
    findings = verify_run(run, time.time(), own_ca)
    table = Table("whose", "check", "", "detail", box=box.SIMPLE, pad_edge=False)
    subject = ""
    for f in findings:
        result = "[green]ok[/]" if f.ok else "[bold red]FAILED[/]"
        table.add_row("" if f.subject == subject else f.subject, f.check, result, escape(f.detail))
        subject = f.subject
    console = Console()
    console.print(table)
    failed = sum(not f.ok for f in findings)
    if failed:
        console.print(f"{failed} of {len(findings)} checks failed.", style="bold red")
        raise typer.Exit(1)
    console.print(f"All {len(findings)} checks hold.", style="green")
