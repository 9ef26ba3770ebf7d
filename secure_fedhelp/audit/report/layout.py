"""The page's sections and figures by number, so that evidence can point to them and print keeps its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secure_fedhelp.audit.report.model import Budget, Empirical, Link, Participant

#: Number and heading by key; the template has one section for each.
SECTIONS: Final = {
    "verdict": (1, "Verdict"),
    "people": (2, "Who took part"),
    "promise": (3, "What is promised to a patient"),
    "budget": (4, "The privacy budget"),
    "empirical": (5, "Claimed against measured"),
    "left": (6, "What left the hospitals"),
    "limits": (7, "What is not covered"),
    "controls": (8, "Controls and the evidence for them"),
    "checks": (9, "Checks that were made"),
    "sources": (10, "Files, tests and how to repeat this"),
}
FIGURES: Final = {"rounds": 1, "curve": 2, "accountants": 3, "canaries": 4}


def drawn(people: Sequence[Participant], budgets: Sequence[Budget], empirical: Empirical) -> frozenset[str]:
    """The figures that there are data for."""
    found = set()
    if any(p.taken_part or p.declined or p.absent for p in people):
        found.add("rounds")
    if any(b.curve for b in budgets):
        found.add("curve")
    if any(b.pld is not None for b in budgets):
        found.add("accountants")
    if any(m.planted is None for m in empirical.measurements):
        found.add("canaries")
    return frozenset(found)


def section_link(key: str) -> Link:
    number, _ = SECTIONS[key]
    return Link(label=f"section {number}", anchor=f"section-{number}")


def figure_link(key: str) -> Link:
    return Link(label=f"figure {FIGURES[key]}", anchor=f"figure-{FIGURES[key]}")
