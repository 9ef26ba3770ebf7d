"""Whose records a simulation has, and what is learnt from, before it trains: on the terminal as on the page.

A hospital's own figures never leave it (data/card.py). In a simulation one researcher has all records, and wants to see
how they were dealt before hours go by; each hospital's whole card is in its own log as in a deployment.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import Cohort, cohort_of
from secure_fedhelp.research.record_warnings import print_warnings
from secure_fedhelp.study.plan import StudyPlan


def print_records(plan: StudyPlan, data: StudyData, screen: Console) -> None:
    """Patients, records and classes of every hospital, of the other parts, and the columns that are learnt from."""
    print_cohort(plan.study.name, cohort_of(data), screen)
    print_warnings(plan, data, screen)


def print_cohort(study: str, cohort: Cohort, screen: Console) -> None:
    """The same of a cohort that is known."""
    table = Table(title=f"Study {study}: records before training", title_justify="left")
    home = any(hospital.test for hospital in cohort.hospitals)
    what = "patients with a pixel of a class" if cohort.masked else "patients of a class"
    for heading in ("hospital", "tier", "patients", "records", what, *(["own patients in the test part"] * home)):
        table.add_column(heading, justify="right" if heading in ("patients", "records") else "left")
    for one in cohort.hospitals:
        own = ["none" if one.test is None else cohort.events(one.test)] * home
        counts = one.training
        cells = (one.name, one.tier, str(counts.patients), str(counts.records), cohort.events(counts), *own)
        table.add_row(*map(Text, cells))  # as text and not as markup: names may come from a file of somebody else
    screen.print(table)
    for line in lines_of(cohort):
        screen.print(line, markup=False)


def lines_of(cohort: Cohort) -> list[str]:
    """The other parts, the columns and what was left out, a sentence each."""
    test = cohort.test
    said = [
        f"Public: {cohort.public_records} records"
        + (f" ({cohort.events(cohort.public)})." if cohort.public else ", without labels."),
        *(f"Reference: {c.records} records of {c.patients} patients ({cohort.events(c)})." for c in cohort.references),
        f"Test: {test.records} records of {test.patients} patients ({cohort.events(test)}).",
    ]
    if cohort.split is not None:
        said.append(f"Parts are those that {cohort.split!r} names.")
    if cohort.columns:
        listed = "; ".join(f"{c.name} ({c.encoding}; by {c.source})" for c in cohort.columns)
        said.append(f"Columns taken to predict {cohort.target or 'the class'}, {len(cohort.columns)}: {listed}.")
        if cohort.excluded:
            said.append(f"Columns not taken, {len(cohort.excluded)}: {', '.join(cohort.excluded)}.")
    if cohort.left_out:
        said.append(f"Left out: {'; '.join(cohort.left_out)}.")
    return said + [f"note: {note}" for note in cohort.notes]
