"""The table shows every figure at every usual width, never wraps, and no name can draw on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from secure_fedhelp.research import wording
from secure_fedhelp.research.summary import Summary
from secure_fedhelp.research.table import ResultsTable, print_table


def shown(summary: Summary, width: int, everything: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    if everything:
        print_table(summary, console)
    else:
        console.print(ResultsTable(summary))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_every_figure_is_there_and_nothing_is_cut(summary: Summary, width: int) -> None:
    lines = shown(summary, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for h in summary.hospitals:
        assert h.name in text
        for key, _, _ in wording.MODELS:
            found = wording.metrics(h, key)
            assert found is not None
            assert wording.share(found.auroc) in text
            assert wording.share(found.balanced_accuracy) in text
    assert "0.944" in text  # the public set only
    for words in ("2.97", "3.00", "320 KiB", "1.9×", "652 KiB", "214"):
        assert words in text


@pytest.mark.parametrize(("width", "tables", "lines_each"), [(140, 1, 1), (100, 1, 2), (80, 2, 2)])
def test_the_layout_follows_the_width(summary: Summary, width: int, tables: int, lines_each: int) -> None:
    lines = shown(summary, width)
    assert sum("──" in line for line in lines) == tables
    first = next(i for i, line in enumerate(lines) if "large-1" in line)
    second = next(i for i, line in enumerate(lines) if "large-2" in line)
    assert second - first == lines_each


def test_one_line_holds_a_hospitals_own_figures(summary: Summary) -> None:
    line = next(line for line in shown(summary, 140) if "small-3" in line)
    wanted = "small-3 small 18 2.97 / 3.00 320 KiB 1.9× 652 KiB 0.587 / 0.572 0.902 / 0.834 0.961 / 0.883 0.968 / 0.888"
    assert " ".join(line.split()) == wanted


@pytest.mark.parametrize("width", [80, 100, 140])
def test_unknown_figures_are_dashes_and_early_leavers_are_marked(ended: Summary, width: int) -> None:
    lines = shown(ended, width, everything=True)
    row = next(line for line in lines if "small-4 *" in line)
    assert wording.NOTHING in row
    assert any("large-2 *" in line for line in lines)
    text = " ".join(line.strip() for line in lines)
    assert "* not in every sum" in text
    assert "The budget of large-2 ended in round 4: it stopped before training any further" in text
    assert "small-4 absent since round 4" in text


def test_the_sentences_follow_the_table(summary: Summary) -> None:
    text = " ".join(line.strip() for line in shown(summary, 100, everything=True))
    for sentence in wording.sentences(summary):
        assert sentence in text
    assert "7.6 bytes a value up and 15.2 down" in text
    assert "1.4e-09" in text


def test_deployment_shows_dashes_and_claims_nothing(deployed: Summary) -> None:
    text = " ".join(shown(deployed, 100, everything=True))
    assert "cannot say who gained" in text
    assert "one seed" not in text


def test_a_long_name_is_cut_and_a_name_is_no_markup(summary: Summary) -> None:
    named = summary.hospitals[0].model_copy(update={"name": "n" * 100})
    styled = summary.hospitals[1].model_copy(update={"name": "[red]x[/red]"})
    text = "\n".join(shown(summary.model_copy(update={"hospitals": (named, styled)}), 140))
    assert "n" * 19 + "…" in text
    assert "[red]x[/red]" in text
