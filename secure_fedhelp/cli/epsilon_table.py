"""What ``audit epsilon`` prints and writes: one table within 80 columns, and below it what no figure says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from secure_fedhelp.cli.plain import plain
from secure_fedhelp.errors import FedHelpError

if TYPE_CHECKING:
    from secure_fedhelp.audit.epsilon import EpsilonReport, Part

_SHORT = 8


@dataclass(frozen=True)
class Read:
    """One ledger file, and what it adds up to or why it does not."""

    path: Path
    result: EpsilonReport | FedHelpError


def print_epsilons(out: Console, ledgers: Sequence[Read], everywhere: Part | None) -> None:
    """The table, then what is *not* protected, then where each figure comes from."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("patient of", overflow="fold", min_width=10)
    for heading in ("study", "data set", "releases", "delta", "epsilon", "by RDP", "reserved"):
        right = heading not in ("study", "data set")
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for read in ledgers:
        if isinstance(read.result, FedHelpError):
            table.add_row("[bold red]FAILED[/]", *[""] * 7)
        else:
            _add(table, read.result)
    if len(ledgers) > 1:
        table.add_section()
        unknown = ("all of them", "", "", "", "", "not known", "", "")
        table.add_row(*(unknown if everywhere is None else ("all of them", *_figures(everywhere))), style="bold")
    out.print(table)
    _print_remarks(out, ledgers, everywhere)


def _add(table: Table, report: EpsilonReport) -> None:
    name = report.hospital
    for part in report.parts:
        table.add_row(name, *_figures(part))
        name = ""
    if len(report.parts) != 1:
        table.add_row(name, *_figures(report.total))


def _figures(part: Part) -> tuple[str, ...]:
    from secure_fedhelp.audit.epsilon import shown

    reserved = shown(part.committed) if part.reservations else "-"
    figures = (str(part.releases), f"{part.delta:g}", shown(part.spent.pld), shown(part.spent.rdp), reserved)
    return ((part.study or "all")[:_SHORT], (part.dataset or "all")[:_SHORT], *figures)


def _print_remarks(out: Console, ledgers: Sequence[Read], everywhere: Part | None) -> None:
    from secure_fedhelp.audit.epsilon import distinct

    def say(text: str, style: str | None = None) -> None:
        out.print(plain(text), markup=False, highlight=False, soft_wrap=True, style=style)

    reports = [r.result for r in ledgers if not isinstance(r.result, FedHelpError)]
    counted = distinct(reports)
    for report in reports:
        for exact in report.exact:
            say(
                f"NO DIFFERENTIAL PRIVACY: {report.hospital}, entry {exact.entry} (round {exact.round + 1} of study "
                f"{exact.study[:_SHORT]}): exact counts ({', '.join(exact.channels)}) left inside a sum of at least "
                f"{exact.smallest_cohort} hospitals, which was opened. No epsilon stands for them.",
                "bold red",
            )
        if "seeded-research" in report.noise_sources:
            say(f"NO PROTECTION from who knows the seed: {report.hospital} drew noise from a seed.", "bold red")
    if any(r.total.reservations for r in reports):
        say("reserved: epsilon if the rounds that were reserved and not released yet are released, too.")
    if everywhere is not None and len(ledgers) > 1:
        say("all of them: a patient whose records are at every one of these hospitals (sequential composition).")
    totals = [(report.hospital, report.total) for report in reports]
    totals += [("all of them", everywhere)] if everywhere is not None and len(ledgers) > 1 else []
    for whose, total in totals:
        if (prv := total.spent.prv) is not None:
            say(f"PRV (Opacus): {whose}: epsilon is between {prv.low:.4f} and {prv.high:.4f}")
    for read in ledgers:
        if isinstance(read.result, FedHelpError):
            say(f"FAILED {read.path}: {type(read.result).__name__}: {read.result.message}", "red")
            say(f"hint: {read.result.hint}", "red")
        else:
            say(f"{read.result.hospital}: {read.path}, signed by {read.result.public_key or 'nobody'}")
            if read.result.entries and not any(read.result is report for report in counted):
                say("  another of these files goes on from all of its entries: 'all of them' counts them once")


def write_epsilons(path: Path, ledgers: Sequence[Read], everywhere: Part | None) -> None:
    """The same as JSON, with every digit; an epsilon beyond all bounds is the word ``infinite``."""
    from secure_fedhelp.study.files import write_atomic

    rows: list[dict[str, object]] = []
    for read in ledgers:
        row: dict[str, object] = {"file": str(read.path)}
        if isinstance(read.result, FedHelpError):
            row["error"] = f"{type(read.result).__name__}: {read.result.message}"
        else:
            report = read.result
            row |= {
                "hospital": report.hospital,
                "unit": report.unit,
                "public_key": report.public_key,
                "noise_sources": report.noise_sources,
                "entries": report.entries,
                "parts": [_as_dict(part) for part in report.parts],
                "total": _as_dict(report.total),
                "no_differential_privacy": [vars(exact) for exact in report.exact],
            }
        rows.append(row)
    together = None if everywhere is None else _as_dict(everywhere)
    text = json.dumps({"ledgers": rows, "everywhere": together}, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def _as_dict(part: Part) -> dict[str, object]:
    prv = part.spent.prv
    return {
        "study": part.study,
        "dataset": part.dataset,
        "delta": part.delta,
        "releases": part.releases,
        "open_reservations": part.reservations,
        "epsilon": _number(part.spent.pld),
        "epsilon_by_rdp": _number(part.spent.rdp),
        "epsilon_by_prv": None if prv is None else [prv.low, prv.high],
        "epsilon_with_reservations": _number(part.committed),
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "infinite"
