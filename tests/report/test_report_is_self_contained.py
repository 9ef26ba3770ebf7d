"""The report shows the summary's figures and nothing else: no network, no script, no name that becomes a tag."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from html_pages import Page, require_only_text, require_readable_aloud, require_self_contained

from secure_fedhelp.errors import StorageError
from secure_fedhelp.research import wording
from secure_fedhelp.research.report import render, write_report
from secure_fedhelp.research.summary import Summary


def test_the_tables_figures_are_the_summarys(ended: Summary) -> None:
    page = Page(render(ended))
    for row, h in zip(page.tables["costs"][1:], ended.hospitals, strict=True):
        status = "" if h.status == "contributed" else f" {h.status}"
        assert row[0] == f"{h.name} {h.tier}{status}"
        assert row[1] == str(h.patients)
        assert row[2] == f"{wording.epsilon(h.epsilon)} of {wording.epsilon(h.epsilon_budget)}"
        assert row[3] == f"{wording.size(h.bytes_up)} {wording.factor(h.float32_factor)}"
        assert row[4] == wording.size(h.bytes_down)
    for row, h in zip(page.tables["models"][1:-1], ended.hospitals, strict=True):
        for cell, (key, _, _) in zip(row[1:], wording.MODELS, strict=True):
            found = wording.metrics(h, key)
            wanted = "–" if found is None else f"{found.auroc:.3f} {found.balanced_accuracy:.3f}"
            assert cell == wanted
    assert page.tables["models"][-1][3] == "0.944 0.869"
    rounds = [(h, r) for h in ended.hospitals for r in h.history]
    for row, (h, r) in zip(page.tables["rounds"][1:], rounds, strict=True):
        assert row[:4] == [h.name, str(r.round + 1), str(r.cohort), wording.epsilon(r.epsilon)]


def test_a_simulation_says_that_nobody_is_protected_in_its_files(summary: Summary) -> None:
    """Its noise comes from a seed that the files name."""
    said = "In these files no patient is protected"
    assert said in render(summary.model_copy(update={"seeded_noise": True}))
    assert said not in render(summary)


def test_exact_bytes_are_in_the_page(summary: Summary) -> None:
    values = [attributes["value"] for attributes in Page(render(summary)).of("data")]
    assert values[:2] == [str(summary.hospitals[0].bytes_up), str(summary.hospitals[0].bytes_down)]


def test_the_sentences_are_those_of_the_terminal(ended: Summary) -> None:
    text = Page(render(ended)).text
    for sentence in [*wording.sentences(ended), wording.caveat(ended)]:
        assert str(sentence) in text


@pytest.mark.parametrize("which", ["summary", "ended", "deployed", "single"])
def test_nothing_is_loaded_from_anywhere(which: str, request: pytest.FixtureRequest) -> None:
    html = render(request.getfixturevalue(which))
    page = require_self_contained(html)
    assert not re.search(r"https?:|//", html), "and it points nowhere"
    assert not page.of("a")
    assert not [name for _, attributes in page.tags for name in attributes if name == "href"]


def test_a_hostile_name_stays_text_everywhere(summary: Summary) -> None:
    evil = "<script>alert(1)</script>"
    quote = '"><img src=x onerror=alert(1)>'
    hospitals = (
        summary.hospitals[0].model_copy(update={"name": evil}),
        summary.hospitals[1].model_copy(update={"name": quote}),
        *summary.hospitals[2:],
    )
    update = {"study": evil, "dataset": "</title></style>{{ 7 * 7 }}", "method": quote, "hospitals": hospitals}
    require_only_text(Page(render(summary.model_copy(update=update))), evil, quote, "{{ 7 * 7 }}")


def test_tables_and_charts_can_be_read_aloud(summary: Summary) -> None:
    page = Page(render(summary))
    require_readable_aloud(page)
    assert (len(page.of("table")), len(page.of("svg"))) == (3, 4)


def test_deployment_has_no_figures_of_quality(deployed: Summary) -> None:
    page = Page(render(deployed))
    assert "models" not in page.tables
    assert len(page.of("svg")) == 2  # epsilon and bytes
    assert "in deployment they stay" in page.text
    assert "This report is not covered by ε" not in page.text


def test_research_mode_says_that_its_figures_left_in_clear(summary: Summary) -> None:
    text = Page(render(summary)).text
    assert "left the hospitals in clear" in text
    assert "The coordinator together with one hospital can open every upload" in text
    assert "secure-fedhelp audit verify RUN" in text
    assert "secure-fedhelp audit epsilon" in text
    assert "factor of 21 (e to the power of the largest budget, ε = 3.00)" in text


@pytest.mark.parametrize(("coalition", "words"), [(1, "with 1 hospital on"), (3, "with 3 hospitals on")])
def test_with_masks_it_says_which_coalition_they_stand(summary: Summary, coalition: int, words: str) -> None:
    masked = summary.aggregation.model_copy(update={"masks": "repairing", "coalition": coalition})
    text = Page(render(summary.model_copy(update={"aggregation": masked}))).text
    assert words in text
    assert "can open every upload" not in text


def test_a_small_budget_has_its_factor_with_a_decimal(summary: Summary) -> None:
    hospitals = tuple(h.model_copy(update={"epsilon_budget": 1.0}) for h in summary.hospitals)
    assert "factor of 2.8 " in render(summary.model_copy(update={"hospitals": hospitals}))


def test_a_study_of_one_round_has_its_charts(single: Summary) -> None:
    page = Page(render(single))
    assert len(page.of("svg")) == 4
    assert "for 1 round." in page.text


def test_a_study_without_history_has_no_charts_of_it(summary: Summary) -> None:
    hospitals = tuple(h.model_copy(update={"history": (), "bytes_up": None}) for h in summary.hospitals)
    hospitals = tuple(h.model_copy(update={"bytes_down": None, "float32_bytes": None}) for h in hospitals)
    page = Page(render(summary.model_copy(update={"hospitals": hospitals, "peak_memory_mib": None})))
    assert len(page.of("svg")) == 1
    assert "rounds" not in page.tables


def test_hospitals_that_differ_get_lines_of_their_own(ended: Summary) -> None:
    labels = re.findall(r'text-anchor="start" class="(?:large|small|both)">([^<]+)<', render(ended))
    assert labels == ["5 hospitals", "4 hospitals", "large-2"]


def test_one_tier_that_agrees_is_called_all_of_it(summary: Summary) -> None:
    hospitals = []
    for number, h in enumerate(summary.hospitals):
        shift = 0.0 if h.tier == "large" else 0.1 if number < 5 else 0.2
        history = tuple(r.model_copy(update={"epsilon": r.epsilon + shift}) for r in h.history)
        hospitals.append(h.model_copy(update={"history": history}))
    html = render(summary.model_copy(update={"hospitals": tuple(hospitals)}))
    labels = re.findall(r'text-anchor="start" class="(?:large|small|both)">([^<]+)<', html)
    assert labels == ["all hospitals", "all large", "3 small", "small-4"]


def test_writing_is_atomic_and_names_the_file(summary: Summary, tmp_path: Path) -> None:
    write_report(summary, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(summary)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        write_report(summary, tmp_path / "folder")


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_colour_has_wcag_aa_contrast_in_light_dark_and_print(summary: Summary) -> None:
    palettes = re.findall(r":root \{(.*?)\}", render(summary), re.DOTALL)
    assert len(palettes) == 3
    for palette in palettes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", palette))
        for ground in ("paper", "band"):
            for ink in ("ink", "soft", "shared", "own", "rival"):
                pair = sorted((luminance(colours[ink]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, ground)
