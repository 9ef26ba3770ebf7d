"""Whose records a simulation has, before it trains on them: the data cards of all hospitals in one table.

A hospital's card never leaves it (data/card.py). In a simulation one researcher has all records, and wants to see how
they were dealt before hours go by, and what must be wrong with them; each hospital's whole card is in its own log as in
a deployment.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fedhelp.data.card import data_card, told
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.study.plan import StudyPlan


def print_records(plan: StudyPlan, data: StudyData, screen: Console) -> None:
    """Patients, records and classes of every hospital, and how many records are public and tested on."""
    cards = {name: data_card(Loaded(records), plan, name) for name, (_, records) in data.hospitals.items()}
    table = Table(title=f"Study {plan.study.name}: records before training", title_justify="left")
    for heading in ("hospital", "tier", "patients", "records", "pixels of a class" if data.test.masked else "classes"):
        table.add_column(heading, justify="right" if heading in ("patients", "records") else "left")
    for name, card in cards.items():
        total = sum(card.classes.values()) or 1
        shares = ", ".join(f"{one} {count / total:.0%}" for one, count in card.classes.items())
        # As text and not as markup: names may come from a file that somebody else wrote.
        table.add_row(Text(name), data.hospitals[name][0], str(card.patients), str(card.records), Text(shares))
    screen.print(table)
    screen.print(f"Public: {len(data.public.inputs)} records. Test: {len(data.test)} records.", markup=False)
    for name, card in cards.items():
        for warning in card.warnings:
            screen.print(f"warning: {name}: {told(warning)}", style="yellow", markup=False)
    for note in data.notes:
        screen.print(f"note: {note}", markup=False)
