"""The page is the report's content and nothing else: no network, no script, no name that becomes a tag."""

from __future__ import annotations

import itertools
import re

import pytest
from html_pages import Page, require_only_text, require_readable_aloud, require_self_contained
from stories import LATER

from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.layout import SECTIONS
from secure_fedhelp.audit.report.model import AuditReport, to_json
from secure_fedhelp.audit.report.page import render
from secure_fedhelp.audit.report.sources import Inputs
from secure_fedhelp.pages import numbers
from secure_fedhelp.study.canonical import sha256_hex


@pytest.fixture(params=["report", "damaged", "nothing", "measured"])
def any_report(request: pytest.FixtureRequest) -> AuditReport:
    if request.param == "measured":
        told, canaries = request.getfixturevalue("told"), request.getfixturevalue("canaries")
        return gather(Inputs(told.root, canary=canaries, prv=True), LATER)
    found: AuditReport = request.getfixturevalue(request.param)
    return found


# -- what it shows ----------------------------------------------------------------------------------------------------


def test_the_tables_figures_are_the_reports(report: AuditReport) -> None:
    page = Page(render(report))
    for row, p in zip(page.tables["people"][1:], report.participants, strict=True):
        assert row[0] == f"{p.name} {p.tier or p.role}"
        assert row[2:] == [p.said, p.key_fingerprint]
    for row, b in zip(page.tables["budgets"][1:], report.budgets, strict=True):
        assert b.pld is not None
        assert b.rdp is not None
        assert row[0] == b.hospital
        assert row[1:4] == ["3.00 δ 0.0001", numbers.epsilon(b.pld), numbers.epsilon(b.rdp)]
    for row, b in zip(page.tables["rounds"][1:], report.budgets, strict=True):
        points = {p.round: numbers.epsilon(p.epsilon) for p in b.curve}
        assert row == [b.hospital, *(points.get(r, "–") for r in range(4))]
    for row, f in zip(page.tables["files"][1:], report.files, strict=True):
        assert row == [f"{f.anchor[5:]} {f.what}", f.path, numbers.count(f.bytes or 0), f.sha256]
    results = [(r.subject, c.name, r.detail) for c in report.checks for r in c.results]
    assert [(row[0], row[1], row[3]) for row in page.tables["results"][1:]] == results


def test_every_text_of_the_json_is_on_the_page(any_report: AuditReport) -> None:
    page = Page(render(any_report)).text
    texts = [one.text for one in any_report.limits] + [d.text for d in any_report.without_privacy]
    texts += [c.supports for f in any_report.frameworks for c in f.controls]
    texts += [c.remains for f in any_report.frameworks for c in f.controls]
    texts += [t.shows for t in any_report.tests] + [c.shows for c in any_report.checks]
    texts += [any_report.said, any_report.empirical.said]
    texts += [m.statement for m in any_report.empirical.measurements]
    for text in texts:
        assert " ".join(text.split()) in page
    assert sha256_hex(to_json(any_report)) in page


def test_the_verdict_comes_first_and_names_what_failed(damaged: AuditReport, report: AuditReport) -> None:
    text = Page(render(damaged)).text
    assert text.index("Checks failed.") < text.index("Who took part")
    for check, one in damaged.failed:
        assert f"{one.subject}: {check.name}. {one.detail}" in text
    assert "All checks hold." not in text
    assert "All checks hold." in Page(render(report)).text


def test_what_left_without_privacy_is_said_beside_the_verdict(report: AuditReport) -> None:
    text = Page(render(report)).text
    first = text.index("Something left without differential privacy: Exact counts on channel metrics")
    assert first < text.index("Rounds published")


# -- what it loads ----------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(any_report: AuditReport) -> None:
    page = require_self_contained(render(any_report), "; base-uri 'none'; form-action 'none'")
    outside = {href for a in page.of("a") if not (href := str(a["href"])).startswith("#")}
    assert outside == {f.url for f in any_report.frameworks}, "three sources that a reader may go to, and no more"
    for url in outside:
        assert url in page.text, "a link's target can be read on paper"


def test_every_link_leads_to_a_part_of_the_page(any_report: AuditReport) -> None:
    page = Page(render(any_report))
    targets = {str(a["href"])[1:] for a in page.of("a") if str(a["href"]).startswith("#")}
    assert targets <= set(page.idents)
    linked = {link.anchor for f in any_report.frameworks for c in f.controls for link in c.evidence}
    assert linked <= targets
    tests = {t.anchor for t in any_report.tests}
    assert tests <= linked, "a test that no control points to"


def test_headings_tables_and_charts_can_be_read_aloud(any_report: AuditReport) -> None:
    page = Page(render(any_report))
    require_readable_aloud(page)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert levels.count(2) == len(SECTIONS)
    assert len(page.of("title")) == len(page.of("svg")) + 1
    assert page.of("html")[0]["lang"] == "en"


def test_a_hostile_text_stays_text_everywhere(report: AuditReport) -> None:
    evil, quote = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
    assert report.study is not None
    participants = tuple(p.model_copy(update={"name": evil, "said": quote}) for p in report.participants)
    budgets = tuple(b.model_copy(update={"hospital": evil}) for b in report.budgets)
    results = tuple(
        r.model_copy(update={"subject": quote, "detail": evil, "ok": False}) for r in report.checks[0].results
    )
    checks = (report.checks[0].model_copy(update={"name": evil, "results": results}), *report.checks[1:])
    files = tuple(f.model_copy(update={"path": quote}) for f in report.files)
    study = report.study.model_copy(update={"name": "</title></style>{{ 7 * 7 }}", "dataset": quote})
    update = {"participants": participants, "budgets": budgets, "checks": checks, "files": files, "study": study}
    require_only_text(Page(render(report.model_copy(update=update))), evil, quote, "{{ 7 * 7 }}")
