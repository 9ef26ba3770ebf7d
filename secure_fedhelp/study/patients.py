"""One notion of a patient: by this rule identifiers are compared wherever the project compares them.

Records are drawn, dealt, set aside and charged to a budget by patient. If one of these places took two spellings for
two people, one person would be drawn twice in a step, or have a budget twice.
"""

from __future__ import annotations

import re
import unicodedata

#: What the rule leaves as it is, for speed: nearly all identifiers. Possessive, so that no text is tried twice.
_PLAIN = re.compile(r"(?![0-9]+\.0+\Z)(?:[!-/:-@\[-`a-~]|(?<![0-9])0(?![0-9])|[1-9][0-9]*+)*+")


def canonical_patient(identifier: str) -> str:
    """One spelling of a patient's identifier, however a program exported it: ``A 12`` and ``a12``, ``0017``, ``17`` and
    ``17.0`` are one. Two people whom it takes for one share a budget, which costs budget and never privacy.

    The canonical spelling of a canonical spelling is itself.
    """
    while not _PLAIN.fullmatch(identifier):
        simpler = _simplified(identifier)
        if simpler == identifier:
            break
        identifier = simpler
    return identifier


def former_spellings(canonical: str) -> tuple[str, ...]:
    """How version 0.4.0 spelled a patient where it did not follow the rule, so that its books still know the patient.

    It took the bytes of a Parquet column for their Python spelling, and quotes behind a blank for a part of the text.
    It let an accent stand apart from its letter if a blank or an invisible character had stood between them.
    """
    spellings = _simplified(repr(canonical.encode())), f'"{canonical}"', unicodedata.normalize("NFD", canonical)
    return tuple(spelling for spelling in spellings if spelling != canonical)


def visible(identifier: str) -> str:
    """An identifier without case, blanks and what is invisible, each letter in one form."""
    if identifier.isascii() and identifier.isprintable():  # the same, faster
        return identifier.lower().replace(" ", "")
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identifier).casefold())
    return "".join(c for c in plain if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf"))


def _simplified(identifier: str) -> str:
    kept = visible(identifier)
    kept = re.sub(r"^(\d+)\.0+$", r"\1", kept)
    return re.sub(r"(?<!\d)0+(?=\d)", "", kept)
