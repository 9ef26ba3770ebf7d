"""A sweep's page in Chromium: on a desktop, on a phone, in the dark and on paper."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from chromium import CONTRAST, DESKTOP, PAPER, PHONE, Visit
from chromium import browser as browser
from playwright.sync_api import Browser
from sweeps import measured, runs

from secure_fedhelp.research.sweep.page import render


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many methods, budgets and a missing run: the widest tables and the fullest charts."""
    names = ("fedhelp", "fedavg", "fedprox", "ditto", "no-logits", "local-dp", "local", "pooled", "public")
    asked = runs(*names, epsilons=(0.5, 1.0, 3.0, 8.0, math.inf), seeds=3)
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(render(asked, [measured(run) for run in asked[1:]]), encoding="utf-8")
    return found


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_asks_for_nothing_and_can_be_read(
    viewport: dict[str, int], scheme: str, browser: Browser, path: Path
) -> None:
    visit = Visit(browser, path, viewport, color_scheme=scheme)
    with visit as page:
        assert visit.asked == [path.as_uri()]
        assert visit.complaints == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        result = page.evaluate(CONTRAST)
        assert result["found"] == []
        assert result["seen"] > 500
        overlapping = page.evaluate(
            """() => [...document.querySelectorAll('svg')].flatMap(svg => {
                 const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBBox()]);
                 return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([_, b]) =>
                   a.x + 1 < b.x + b.width && b.x + 1 < a.x + a.width &&
                   a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height
                 ).map(([two, _]) => [svg.querySelector('title').textContent, one, two])); })"""
        )
        assert overlapping == []


SHOWN = "() => [...document.querySelectorAll('details.values table')].map(e => e.checkVisibility())"


def test_long_tables_are_closed_on_a_screen_and_whole_on_paper(browser: Browser, path: Path) -> None:
    with Visit(browser, path, PAPER) as page:
        tables = page.evaluate(SHOWN)
        assert len(tables) >= 4
        assert not any(tables)
        assert page.evaluate("[...document.querySelectorAll('figure svg')].every(e => e.checkVisibility())")
        page.emulate_media(media="print")
        assert all(page.evaluate(SHOWN))
        assert page.evaluate(
            "[...document.querySelectorAll('details.values')].every(e => e.getBoundingClientRect().height > 300)"
        )


def test_names_in_a_chart_stay_left_of_its_lines(browser: Browser, path: Path) -> None:
    with Visit(browser, path, PHONE) as page:
        over = page.evaluate(
            """() => [...document.querySelectorAll('svg[aria-labelledby^="chart-gain"], '
                   + 'svg[aria-labelledby^="chart-calibration"]')].flatMap(svg => {
                 const edge = Math.min(...[...svg.querySelectorAll('.grid')].map(e => e.getBBox().x));
                 return [...svg.querySelectorAll('text[text-anchor=start]')].filter(e => e.textContent)
                   .map(e => [e.textContent, e.getBBox()]).filter(([_, b]) => b.x + b.width > edge)
                   .map(([words, _]) => words); })"""
        )
        assert over == []
        assert page.evaluate("document.querySelectorAll('svg[aria-labelledby^=\"chart-gain\"] .grid').length") > 9


def test_it_prints_on_paper_with_nothing_cut_off(browser: Browser, path: Path) -> None:
    with Visit(browser, path, PAPER) as page:
        page.emulate_media(media="print")
        assert page.evaluate(CONTRAST)["found"] == []
        outside = page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(e => e.getClientRects().length)
                 .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"""
        )
        assert outside == []
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF-")
