"""A page as a test sees it, and what holds for every page that is handed on as one file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br"}
#: Tags that load or send something, or run.
ACTIVE = {"script", "link", "img", "iframe", "object", "form", "input", "base"}


class Page(HTMLParser):
    """Tags with their attributes, the cells of each table by id, the text; tags must close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(str(dict(attrs).get("id")), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)
        if {"th", "td"} & set(self._open):
            self._rows[-1][-1] = " ".join(f"{self._rows[-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def idents(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


def require_self_contained(html: str, more_policy: str = "") -> Page:
    """Nothing is loaded, sent or run, and the page's own policy forbids it."""
    assert html.startswith("<!DOCTYPE html>")
    assert not re.search(r"url\(|@import|javascript:|<!--", html)
    page = Page(html)
    assert not ACTIVE & {tag for tag, _ in page.tags}
    names = [name for _, attributes in page.tags for name in attributes]
    assert not [n for n in names if n in ("src", "srcset", "style", "action") or n.startswith("on")]
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'{more_policy}"
    return page


def require_readable_aloud(page: Page) -> None:
    """Cells have headings, tables captions and charts descriptions; what is referred to is there, once."""
    assert all(t.get("scope") in ("row", "col") for t in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    idents = set(page.idents)
    assert len(idents) == len(page.idents)
    assert all(chart["role"] == "img" and chart["aria-labelledby"] for chart in page.of("svg"))
    for _, attributes in page.tags:
        assert set(str(attributes.get("aria-labelledby") or "").split()) <= idents


def require_only_text(page: Page, *hostile: str) -> None:
    """Words that would be markup are text, and made nothing else."""
    assert not ACTIVE & {tag for tag, _ in page.tags}
    assert len(page.of("style")) == 1
    for words in hostile:
        assert words in "".join(page.words)
