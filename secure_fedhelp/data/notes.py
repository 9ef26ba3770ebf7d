"""What whoever reads the data card must know of many files: one note of a kind, however many files it is about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Notes:
    """Collects what files have in common, and says each kind once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}
        self._warnings: dict[str, tuple[str, int]] = {}
        self._lies: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """One more file of which ``kind`` is true; the kind is the note's words."""
        self._files.setdefault(kind, {})[name] = None

    def lies(self, orientation: str, name: str) -> None:
        """How the volume of one image lies in space."""
        names = self._lies.setdefault(orientation, [])
        if name not in names[-1:]:  # slices of one volume follow one another
            names.append(name)

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
        """All notes."""
        found = [f"{kind}: {_files(list(names))}." for kind, names in self._files.items()]
        if len(self._lies) == 1:
            found.append(
                f"volumes lie as {next(iter(self._lies))} (towards which side columns, rows and slices run). {_AGREE}"
            )
        elif self._lies:
            kinds = sorted(self._lies.items(), key=lambda item: -len(item[1]))
            listed = "; ".join(f"{orientation}: {_files(names)}" for orientation, names in kinds)
            found.append(
                f"WARNING: volumes lie in different ways, so that some are mirrored or turned. {listed}. {_AGREE}"
            )
        if self._warnings:
            text, (first, count) = next(iter(self._warnings.items()))
            others = f", and {len(self._warnings) - 1} other warnings" if len(self._warnings) > 1 else ""
            found.append(f"the readers of image files warn: {text!r} ({count} times, first at {first}){others}")
        return tuple(found)


_AGREE = "They are taken as stored: bring them to one orientation, the same in every hospital."


def _files(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} of them, {shown}" + (" and others" if len(names) > 3 else "")
