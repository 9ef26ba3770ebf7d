"""What whoever reads the data card must know of many files: one note of a kind, however many files it is about."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice


class Notes:
    """Collects what files have in common, and says each kind once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}
        self._warnings: dict[str, tuple[str, int]] = {}
        self._lies: dict[str | None, dict[str, None]] = {}

    def add(self, kind: str, name: str) -> None:
        """One more file of which ``kind`` is true; the kind is the note's words."""
        self._files.setdefault(kind, {})[name] = None

    def lies(self, orientation: str | None, name: str) -> None:
        """How the volume of one image lies in space; None where it does not say."""
        self._lies.setdefault(orientation, {})[name] = None

    @contextmanager
    def hears(self, name: str) -> Iterator[None]:
        """Keeps the warnings of the libraries that read a file off the terminal, to be said once."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            text = " ".join(str(warning.message).split())[:300]
            first, count = self._warnings.get(text, (name, 0))
            self._warnings[text] = (first, count + 1)

    def lines(self) -> tuple[str, ...]:
        """All notes but :attr:`turned`."""
        found = [f"{kind}: {_files(names)}." for kind, names in self._files.items()]
        return (*found, *self._orientations(), *self._heard())

    def _orientations(self) -> tuple[str, ...]:
        if not self._lies.keys() - {None}:  # pictures, or X-rays: nothing to agree on
            return ()
        if len(self._lies) == 1:
            return (f"volumes lie as {next(iter(self._lies))} (where columns, rows and slices run to). {_AGREE}",)
        return ()

    @property
    def turned(self) -> str:
        """How volumes lie where some lie otherwise than others, which is a fault; empty if all lie alike."""
        if len(self._lies) < 2:
            return ""
        kinds = sorted(self._lies.items(), key=lambda item: -len(item[1]))
        each = "; ".join(f"{lies or 'nothing is said'}: {_files(names)}" for lies, names in kinds)
        known = len(self._lies.keys() - {None})
        what = "in different ways, so some are" if known > 1 else "in one way, or do not say how, so some may be"
        return f"volumes lie {what} mirrored or turned. {each}. {_AGREE}"

    def _heard(self) -> tuple[str, ...]:
        if not self._warnings:
            return ()
        said = (
            f"{text!r} ({'once' if count == 1 else f'{count} times'}, first at {first})"
            for text, (first, count) in islice(self._warnings.items(), _WARNINGS)
        )
        others = f"; and {more} others" if (more := len(self._warnings) - _WARNINGS) > 0 else ""
        return (f"the readers of image files warn: {'; '.join(said)}{others}",)


#: Different warnings that are said in full.
_WARNINGS = 5
_AGREE = "They are taken as stored: bring them to one orientation, the same in every hospital."


def listed(names: Collection[str]) -> str:
    """The first three names."""
    return ", ".join(islice(names, 3)) + (" and others" if len(names) > 3 else "")


def _files(names: Mapping[str, None]) -> str:
    return f"{len(names)} of them, {listed(names)}"
