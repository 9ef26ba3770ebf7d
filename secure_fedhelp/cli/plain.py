"""Words of strangers on a terminal: what an error quotes of somebody else's file is shown and never obeyed."""

from __future__ import annotations


def plain(text: str, keep: str = "") -> str:
    """``text`` with each character that is not printable spelt out (``\\x1b``), except those in ``keep``.

    A key of a forged ledger may hold an escape sequence that clears the screen, a line feed that begins a line such as
    "All checks hold.", or a sign that turns the writing round.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
