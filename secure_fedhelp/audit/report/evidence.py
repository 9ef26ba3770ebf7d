"""Checks, files, tests and controls of one report, tied together by links."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from secure_fedhelp.audit.report.layout import figure_link, section_link
from secure_fedhelp.audit.report.model import (
    Check,
    Control,
    EvidenceFile,
    Framework,
    Link,
    Result,
    TestReference,
    plain,
)
from secure_fedhelp.audit.report.texts import Book, FileKind, Row, texts
from secure_fedhelp.audit.report.words import spans
from secure_fedhelp.audit.verify import Finding

_OTHER = "A check of the run's files."

_SEVERAL: dict[FileKind, str] = {"ledger": "ledgers", "policy": "policies"}


def checks(findings: Sequence[Finding]) -> tuple[Check, ...]:
    """Findings by what was asked, in the order in which that was first asked."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.check, []).append(finding)
    return tuple(
        Check(
            anchor=f"check-{number}",
            name=plain(name),
            shows=texts().shows.get(name, _OTHER),
            results=tuple(Result(subject=plain(f.subject), ok=f.ok, detail=plain(f.detail)) for f in of),
        )
        for number, (name, of) in enumerate(groups.items(), start=1)
    )


def tests() -> tuple[TestReference, ...]:
    return tuple(
        TestReference(anchor=f"test-{number}", name=f"tests/{one.name}", shows=one.shows)
        for number, one in enumerate(texts().tests, start=1)
    )


def frameworks(made: Sequence[Check], files: Sequence[EvidenceFile], figures: Collection[str]) -> tuple[Framework, ...]:
    return tuple(_framework(book, made, files, figures) for book in texts().frameworks)


def _framework(book: Book, made: Sequence[Check], files: Sequence[EvidenceFile], figures: Collection[str]) -> Framework:
    controls = tuple(
        Control(
            reference=row.reference,
            requirement=row.requirement,
            supports=row.supports,
            remains=row.remains,
            evidence=tuple(_links(row, made, files, figures)),
            state=_state(row, made),
        )
        for row in book.controls
    )
    return Framework(name=book.name, source=book.source, url=book.url, note=book.note, controls=controls)


def _state(row: Row, made: Sequence[Check]) -> Literal["holds", "failed", "unchecked"]:
    behind = [check for check in made if check.name in row.checks]
    if any(check.failed for check in behind):
        return "failed"
    return "holds" if behind else "unchecked"


def _links(row: Row, made: Sequence[Check], files: Sequence[EvidenceFile], figures: Collection[str]) -> Iterator[Link]:
    """Checks first, then files (the first of a kind stands for all), sections, figures and tests."""
    for check in made:
        if check.name in row.checks:
            yield Link(label=check.name, anchor=check.anchor)
    for kind in row.files:
        found = [file for file in files if file.what == kind and file.sha256 is not None]
        if found:
            numbers = [int(file.anchor[5:]) for file in found]
            what = found[0].path if len(found) == 1 else _SEVERAL[kind]
            yield Link(label=f"{spans(numbers)} {what}", anchor=found[0].anchor)
    yield from (section_link(key) for key in row.sections)
    yield from (figure_link(key) for key in row.figures if key in figures)
    order = [t.key for t in texts().tests]
    yield from (Link(label=str(n), anchor=f"test-{n}") for n in sorted(order.index(k) + 1 for k in row.tests))
