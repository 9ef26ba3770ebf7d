"""The page in Chromium: on a desktop, on a phone, in the dark, on paper, without a network, by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chromium import CONTRAST, DESKTOP, PAPER, PHONE, Visit
from chromium import browser as browser
from playwright.sync_api import Browser
from runs import Run
from stories import LATER, canary

from secure_fedhelp.audit.canary.results import write_results
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport
from secure_fedhelp.audit.report.page import render
from secure_fedhelp.audit.report.sources import Inputs


@pytest.fixture(scope="module")
def pages(
    told: Run,
    report: AuditReport,
    damaged: AuditReport,
    nothing: AuditReport,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Every kind of report as a file."""
    folder = tmp_path_factory.mktemp("pages")
    endless = canary(kind="black-box", statement="x" * 800)
    results = [canary(), endless, canary(planted="noise-halved", lower_bound=3.5, holds=False)]
    write_results(folder / "canary.json", results)
    measured = gather(Inputs(told.root, canary=folder / "canary.json"), LATER)
    for name, one in {"report": report, "damaged": damaged, "nothing": nothing, "measured": measured}.items():
        (folder / f"{name}.html").write_text(render(one), encoding="utf-8")
    return folder


#: The one with canaries has everything that an honest report without them has.
KINDS = ("measured", "damaged", "nothing")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_renders_without_network_complaint_or_sideways_scroll(
    kind: str, viewport: dict[str, int], browser: Browser, pages: Path
) -> None:
    visit = Visit(browser, pages / f"{kind}.html", viewport)
    with visit as page:
        assert visit.asked == [(pages / f"{kind}.html").as_uri()], "nothing but itself"
        assert visit.complaints == []
        assert "audit report" in page.title()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        outside = page.evaluate(
            """() => [...document.querySelectorAll('main *')]
                 .filter(e => !e.closest('.scroll') && e.getClientRects().length)
                 .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
        )
        assert outside == []


def test_no_script_runs_even_if_one_got_in(browser: Browser, pages: Path, tmp_path: Path) -> None:
    html = (pages / "report.html").read_text(encoding="utf-8")
    spoilt = html.replace(
        "</main>", "<script>document.title = 'taken over'</script><img src='https://x.test/a'></main>"
    )
    (tmp_path / "spoilt.html").write_text(spoilt, encoding="utf-8")
    visit = Visit(browser, tmp_path / "spoilt.html", DESKTOP)
    with visit as page:
        assert page.title() != "taken over"
        assert visit.refused == [("https://x.test/a", "csp")], "refused by the page's own policy"
        assert len(visit.complaints) == 2


# -- contrast ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_enough_contrast(
    kind: str, viewport: dict[str, int], scheme: str, browser: Browser, pages: Path
) -> None:
    with Visit(browser, pages / f"{kind}.html", viewport, color_scheme=scheme) as page:
        result = page.evaluate(CONTRAST)
        assert result["found"] == []
        assert result["seen"] > 100
        page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate(CONTRAST)["found"] == []


def test_the_measure_of_contrast_finds_grey_on_grey(browser: Browser, pages: Path) -> None:
    with Visit(browser, pages / "report.html", DESKTOP) as page:
        page.evaluate("document.querySelector('h1').style.color = '#999'")
        assert [text for text, _ in page.evaluate(CONTRAST)["found"]] == ["lungs"]


# -- keyboard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_keyboard_reaches_the_skip_link_first_and_every_link_in_order(
    viewport: dict[str, int], browser: Browser, pages: Path
) -> None:
    with Visit(browser, pages / "measured.html", viewport) as page:
        wanted = page.evaluate(
            """() => { const all = [...document.querySelectorAll('a[href], [tabindex]')];
                       all.forEach((e, i) => e.dataset.place = i); return all.length; }"""
        )
        assert wanted > 60
        places = []
        for _ in range(wanted):
            page.keyboard.press("Tab")
            at = page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                           return [+e.dataset.place, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1]; }"""
            )
            assert at[1], f"element {at[0]} has no visible focus"
            places.append(at[0])
        assert places == list(range(wanted))


def test_the_skip_link_shows_and_leads_to_the_verdict(browser: Browser, pages: Path) -> None:
    with Visit(browser, pages / "report.html", PHONE) as page:
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        assert skip.inner_text() == "Skip to the verdict"
        box = skip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["y"] >= 0
        page.keyboard.press("Enter")
        assert page.url.endswith("#section-1")


def test_each_link_on_the_page_goes_where_it_says(browser: Browser, pages: Path) -> None:
    with Visit(browser, pages / "report.html", DESKTOP) as page:
        missing = page.evaluate(
            """() => [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href').slice(1))
                     .filter(id => !document.getElementById(id))"""
        )
        assert missing == []


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tables_are_tables_to_who_does_not_see_them(viewport: dict[str, int], browser: Browser, pages: Path) -> None:
    """Also on a phone, where rows are stacked: display: block would take a table's meaning away from screen readers."""
    with Visit(browser, pages / "measured.html", viewport) as page:
        table = page.get_by_role("table", name=re.compile("^Members"))
        assert table.get_by_role("row").count() == 7
        assert table.get_by_role("rowheader").all_inner_texts()[1].startswith("alpha")
        assert table.get_by_role("columnheader").count() == 4
        for named in ("Budgets of this study", "Canary audits", "Kinds of checks", "Files read", "HIPAA"):
            assert page.get_by_role("table", name=re.compile(named)).get_by_role("row").count() > 1, named
        assert page.get_by_role("img", name=re.compile("Epsilon by round")).count() >= 1
        assert page.get_by_role("heading", level=2).count() == 10


# -- paper ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_prints_on_a4_with_nothing_cut_off(kind: str, browser: Browser, pages: Path) -> None:
    with Visit(browser, pages / f"{kind}.html", PAPER) as page:
        page.emulate_media(media="print")
        cut = page.evaluate(
            """() => [...document.querySelectorAll('main *')]
                 .filter(e => e.getClientRects().length && !e.ownerSVGElement)
                 .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 &&
                              !['inline', 'contents'].includes(getComputedStyle(e).display) && e.clientWidth > 1)
                 .map(e => e.outerHTML.slice(0, 90))"""
        )
        assert cut == []
        assert page.locator(".signing").is_visible()
        assert not page.locator(".skip").is_visible()
        pdf = page.pdf(prefer_css_page_size=True)
        assert pdf.startswith(b"%PDF-")
        (width, height), *_ = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
        assert (round(float(width)), round(float(height))) == (595, 842)
        assert len(re.findall(rb"/Type /Page\b", pdf)) >= 5
