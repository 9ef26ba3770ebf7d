"""The prose of a report, from ``texts/*.toml``: read once, refused if a key is misspelt."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from secure_fedhelp.audit.report.layout import FIGURES, SECTIONS
from secure_fedhelp.study.sections import Strict

#: Line breaks in the files are for who edits them.
Prose = Annotated[str, BeforeValidator(lambda text: " ".join(text.split())), Field(min_length=1)]
Group = Literal["files", "others", "method", "law"]
#: What a limit of some studies only depends on.
Condition = Literal[
    "authority of the run",
    "policies missing",
    "policies there",
    "no masks",
    "masks",
    "classical signatures",
    "hybrid signatures",
    "sanitised",
    "not sanitised",
    "no canaries",
    "canaries given",
]
FileKind = Literal["plan", "authority", "roster", "transcript", "ledger", "policy", "settings", "canaries"]


class Row(Strict):
    """One requirement, what supports it, what remains, and its evidence by name."""

    reference: Prose
    requirement: Prose
    supports: Prose
    remains: Prose
    checks: tuple[str, ...] = ()
    files: tuple[FileKind, ...] = ()
    sections: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


class Book(Strict):
    """A law or guideline: where its text is, what must be said first, and its rows."""

    name: Prose
    source: Prose
    url: str
    note: Prose
    controls: tuple[Row, ...]


class LimitText(Strict):
    group: Group
    when: Condition | None = None
    title: Prose
    text: Prose


class TestText(Strict):
    key: str
    name: str
    shows: Prose


class Texts(Strict):
    frameworks: tuple[Book, ...]
    limits: tuple[LimitText, ...]
    tests: tuple[TestText, ...]
    shows: dict[str, Prose]


@cache
def texts() -> Texts:
    """All of it, with every name of a section, figure, test and check looked up."""
    folder = files("secure_fedhelp.audit.report") / "texts"
    values: dict[str, object] = {}
    for name in ("controls", "limits", "tests", "checks"):
        values |= tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    found = Texts.model_validate(values)
    keys = {t.key for t in found.tests}
    for row in (r for book in found.frameworks for r in book.controls):
        unknown = {*row.sections} - {*SECTIONS} | {*row.figures} - {*FIGURES} | {*row.tests} - keys
        unknown |= {*row.checks} - {*found.shows}
        if unknown:
            raise ValueError(f"{row.reference} names {', '.join(sorted(unknown))}")
    return found
