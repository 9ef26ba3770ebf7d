"""``secure-fedhelp hospital data``: the data card of a hospital's records, and whether they fit a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fedhelp.cli.hospital_privacy import Folder
from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.cli.plain import plain

if TYPE_CHECKING:
    from secure_fedhelp.data.card import DataCard
    from secure_fedhelp.data.columns import NumericCounts

_STDOUT = Path("-")


def data(
    folder: Folder,
    plan: Annotated[Path, typer.Option(help="The study plan whose columns, classes and sizes the records must fit.")],
    json_out: Annotated[
        Path | None,
        typer.Option("--json", help="Write every figure to this file; '-' prints them in place of the card."),
    ] = None,
) -> None:
    """Show the data card of this hospital's records and check them against a plan. It stays at the hospital.

    Nothing is unlocked, signed, spent or sent. A warning names what must be wrong, such as a unit. Exit code 2 if the
    records cannot be read or do not fit.

    Example: secure-fedhelp hospital data --folder st-anna --plan plan.toml
    """
    from secure_fedhelp.data.card import STAYS, data_card
    from secure_fedhelp.data.card_json import card_json
    from secure_fedhelp.data.checks import check_records
    from secure_fedhelp.data.loading import load_records
    from secure_fedhelp.errors import FedHelpError
    from secure_fedhelp.hospital.folder import HospitalFolder
    from secure_fedhelp.study.files import write_atomic
    from secure_fedhelp.study.plan import load_plan

    config, study = HospitalFolder(folder).config(), load_plan(plan)
    study.require_listed(config.name)
    # With '-' the standard output is for a program, and what a person is told goes beside it.
    out = Console(highlight=False, stderr=json_out == _STDOUT)
    with LoadingBar(out) as bar:
        loaded = load_records(folder / config.records, study.data, progress=bar, reading=config.reading)
    card, misfit = data_card(loaded, study, config.name), None
    try:
        check_records(loaded.records, study, config.name)
    except FedHelpError as error:
        misfit = error
    if json_out is not None:
        text = card_json(card, study, config.name, misfit)
        if json_out == _STDOUT:
            typer.echo(text, nl=False)
        else:
            write_atomic(json_out, text, mode=0o600)
    if json_out != _STDOUT:
        out.print(f"{config.records} of {config.name}, for study {study.study.name}. {STAYS}", markup=False)
        _print(out, card)
    if misfit is not None:
        raise misfit
    if card.warnings:
        out.print(f"The records fit the plan. First look at {_warnings(card)}.", style="yellow", markup=False)
    elif json_out != _STDOUT:
        out.print("The records fit the plan.", style="green")


def _warnings(card: DataCard) -> str:
    return "the warning" if len(card.warnings) == 1 else f"the {len(card.warnings)} warnings"


def _print(out: Console, card: DataCard) -> None:
    from secure_fedhelp.data.card import said, told

    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in card.rows():
        # Classes and columns are a stranger's words: the plan's author chose them.
        table.add_row(Text(plain(name)), Text(plain(value)))
    out.print(table)
    if card.numeric:
        out.print(_numbers(card.numeric))
    if card.categorical:
        words = Table(box=box.SIMPLE, pad_edge=False)
        words.add_column("categories", overflow="fold", max_width=_WIDEST_NAME)
        words.add_column("records", overflow="fold")
        for one in card.categorical:
            words.add_row(Text(plain(one.name)), Text(plain(said(one))))
        out.print(words)
    for warning in card.warnings:
        out.print(f"warning: {plain(told(warning))}", style="yellow", markup=False)
    for note in card.notes:
        out.print(f"note: {plain(note)}", markup=False)


#: Of a column's name, before it goes on in the next line; a terminal has 80 columns.
_WIDEST_NAME = 22
_CAPTION = """\
middle: how many of the plan's scales the median lies from the plan's centre.
spread: the standard deviation in scales; 1 is what the plan expects."""


def _numbers(columns: Sequence[NumericCounts]) -> Table:
    """Medians and quartiles as in the file, for whoever knows it; then how they lie against the plan."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("numbers", overflow="fold", max_width=_WIDEST_NAME)
    for heading in ("missing", "cut", "25 %", "median", "75 %", "middle", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in columns:
        figures = [""] * 5
        if one.quantiles is not None:
            ends = (one.quantiles.lower, one.quantiles.median, one.quantiles.upper)
            figures = [*(f"{end:.5g}" for end in ends), f"{one.middle:+.2g}", f"{one.spread:.2g}"]
        table.add_row(Text(plain(one.name)), str(one.missing), str(one.cut), *figures)
    table.caption = _CAPTION
    table.caption_justify = "left"
    return table
