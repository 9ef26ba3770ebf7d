"""The page in Chromium: on a desktop, on a phone, in the dark, on paper, without a network, by keyboard.

Where no Chromium can be had these tests are skipped; with REQUIRE_CHROMIUM set, as in continuous integration, they
fail.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from runs import Run
from stories import LATER, canary

from secure_fedhelp.audit.canary.results import write_results
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport
from secure_fedhelp.audit.report.page import render
from secure_fedhelp.audit.report.sources import Inputs

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
#: A4 less the page's own margins, in CSS pixels.
PAPER = {"width": round((210 - 2 * 16) / 25.4 * 96), "height": 1000}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        reason = "no 'chromium' on this machine (Debian: apt-get install chromium)"
        if os.environ.get("REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Chromium's own sandbox does not start for root, as whom containers run.
    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield running
        running.close()


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


class Visit:
    """One opened page, and everything it asked for or complained about."""

    def __init__(self, browser: Browser, path: Path, viewport: dict[str, int], **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)  # type: ignore[arg-type]
        self.asked: list[str] = []
        self.refused: list[tuple[str, str | None]] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.context.on("requestfailed", lambda request: self.refused.append((request.url, request.failure)))
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.set_offline(True)
        self.page.goto(path.as_uri())

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()


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

CONTRAST = """
() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return {r: n[0], g: n[1], b: n[2], a: n[3] ?? 1}; };
  const over = (top, below) => ({r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a),
                                 b: top.b * top.a + below.b * (1 - top.a), a: 1});
  const light = c => [c.r, c.g, c.b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                     .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor); layers.push(c); if (c.a === 1) break; }
    return layers.reverse().reduce((below, top) => over(top, below), {r: 255, g: 255, b: 255, a: 1}); };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, style = getComputedStyle(e);
    if (!walker.currentNode.textContent.trim() || !e.getClientRects().length) continue;
    if (e.closest('title, desc, style')) continue;
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const behind = ground(e);
    const colour = over(parse(e instanceof SVGElement ? style.fill : style.color), behind);
    const [high, low] = [light(colour), light(behind)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
    const large = size >= 24 || (size >= 18.66 && bold);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) found.push([walker.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return {seen, found};
}
"""


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
