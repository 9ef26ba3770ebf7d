"""``secure-fedhelp hospital data``: the data card of a hospital's records, and whether they fit a plan."""

from __future__ import annotations

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


def data(
    folder: Folder,
    plan: Annotated[Path, typer.Option(help="The study plan whose columns, classes and sizes the records must fit.")],
) -> None:
    """Show the data card of this hospital's records and check them against a plan. It stays at the hospital.

    Nothing is unlocked, signed, spent or sent. Exit code 2 if the records cannot be read or do not fit.

    Example: secure-fedhelp hospital data --folder st-anna --plan plan.toml
    """
    from secure_fedhelp.data.card import STAYS, data_card
    from secure_fedhelp.data.checks import check_records
    from secure_fedhelp.data.loading import load_records
    from secure_fedhelp.hospital.folder import HospitalFolder
    from secure_fedhelp.study.plan import load_plan

    config, study = HospitalFolder(folder).config(), load_plan(plan)
    study.require_listed(config.name)
    out = Console(highlight=False)
    with LoadingBar(out) as bar:
        loaded = load_records(folder / config.records, study.data, progress=bar, reading=config.reading)
    out.print(f"{config.records} of {config.name}, for study {study.study.name}. {STAYS}", markup=False)
    _print(out, data_card(loaded, study, config.name))
    check_records(loaded.records, study, config.name)
    out.print("The records fit the plan.", style="green")


def _print(out: Console, card: DataCard) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in card.rows():
        # Classes and columns are a stranger's words: the plan's author chose them.
        table.add_row(Text(plain(name)), Text(plain(value)))
    out.print(table)
    for note in card.notes:
        out.print(f"note: {plain(note)}", markup=False)
