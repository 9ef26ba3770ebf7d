"""What must be wrong with the records of a simulation's hospitals, told before it trains: a site in another unit.

A hospital's own card is told more (data/card.py): of what a model sees, a code for missing and a missing value show no
longer.
"""

from __future__ import annotations

from rich.console import Console

from secure_fedhelp.data.card import data_card, told
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.study.plan import StudyPlan


def print_warnings(plan: StudyPlan, data: StudyData, screen: Console) -> None:
    """A line for each warning of each hospital."""
    for name, (_, records) in data.hospitals.items():
        for warning in data_card(Loaded(records), plan, name).warnings:
            screen.print(f"warning: {name}: {told(warning)}", style="yellow", markup=False)
