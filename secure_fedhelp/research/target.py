"""Whether a column of targets holds classes at all: a measurement has as many values as there are patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from secure_fedhelp.errors import InvalidValue

#: More different numbers than this are a measurement, and more different words are names or remarks.
MOST_NUMBERS: Final = 20
MOST_WORDS: Final = 50
#: Of numbers with fractions fewer will do: nobody numbers classes so.
MOST_FRACTIONS: Final = 10
_HOW = (
    "A study predicts classes. Cut it into some yourself, in a column of its own (say, low and high at a limit that "
    "medicine knows), and name that one: target = ... Or list every one of them: classes = [...]."
)


def require_classes(targets: Sequence[str], column: str, file: str, classes: Sequence[str]) -> None:
    """InvalidValue if ``targets``, none of them missing, are no classes; whatever ``classes`` names is one."""
    different = {_spelling(text) for text in targets}
    if 2 * len(different & {_spelling(name) for name in classes}) >= len(different):
        return  # one that is not named is told by its name
    numbers = [found for text in different if (found := _number(text)) is not None]
    fractions = any(not number.is_integer() for number in numbers)
    if len(numbers) > (MOST_FRACTIONS if fractions else MOST_NUMBERS) and 2 * len(numbers) >= len(different):
        span = f"{len(numbers)} different numbers, {min(numbers):g} to {max(numbers):g}"
        raise InvalidValue(f"{file}: the target {column!r} looks continuous: {span}", _HOW)
    if len(different) > MOST_WORDS and not classes:
        listed = ", ".join(repr(text[:20]) for text in sorted(different)[:3])
        reason = f"{file}: the target {column!r} has {len(different)} different values ({listed}, ...)"
        raise InvalidValue(reason, "A target has few: name another column, or list its classes: classes = [...].")


def _spelling(text: str) -> str:
    """One for all spellings of a number."""
    number = _number(text)
    return text.strip() if number is None else repr(number)


def _number(text: str) -> float | None:
    """A number as it may be written in a table, with a decimal comma too: here only how many there are counts."""
    try:
        found = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return found if math.isfinite(found) else None
