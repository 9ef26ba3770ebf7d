"""Whose records a simulation has, before it trains on them: the data cards of all hospitals in one table.

A hospital's card never leaves it (data/card.py). In a simulation one researcher has all records, and wants to see how
they were dealt before hours go by; each hospital's whole card is in its own log as in a deployment.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fedhelp.data.card import data_card
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.record_warnings import print_warnings
from secure_fedhelp.study.plan import StudyPlan


def print_records(plan: StudyPlan, data: StudyData, screen: Console) -> None:
    """Patients, records and classes of every hospital, and how many records are public and tested on."""
    table = Table(title=f"Study {plan.study.name}: records before training", title_justify="left")
    for heading in ("hospital", "tier", "patients", "records", "pixels of a class" if data.test.masked else "classes"):
        table.add_column(heading, justify="right" if heading in ("patients", "records") else "left")
    for name, (tier, records) in data.hospitals.items():
        card = data_card(Loaded(records), plan, name)
        total = sum(card.classes.values()) or 1
        shares = ", ".join(f"{one} {count / total:.0%}" for one, count in card.classes.items())
        # As text and not as markup: names may come from a file that somebody else wrote.
        table.add_row(Text(name), tier, str(card.patients), str(card.records), Text(shares))
    screen.print(table)
    screen.print(f"Public: {len(data.public.inputs)} records. Test: {len(data.test)} records.", markup=False)
    print_warnings(plan, data, screen)
    for note in data.notes:
        screen.print(f"note: {note}", markup=False)
