"""What must be wrong with a hospital's records, by the figures of its data card: a unit, a code for missing, a window.

A plan's centre, scale and intensity are public constants, so a wrong unit raises no error: values are cut, or all look
alike, and the study learns less without a word. The thresholds hold of any distribution and not of a normal one. Centre
and scale are a mean and a standard deviation of the public set; Cantelli's inequality then bounds what lies k scales to
one side of the centre by 1 / (1 + k^2), Chebyshev's what lies k scales away by 1 / k^2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.columns import CategoryCounts, ColumnCounts, NumericCounts
from secure_fedhelp.data.loaded import Odd, Tones
from secure_fedhelp.data.notes import listed
from secure_fedhelp.study.sections import Column, DataSection

_OfColumns = Literal["missing", "constant", "code", "middle", "spread", "factor", "cut", "other"]
Kind = _OfColumns | Literal["white", "black", "flat", "fractions", "orientation"]

Values = NDArray[np.float32]

#: A median so many scales from the centre: of the public set a tenth at most lies there, of this hospital's half.
_MIDDLE, _FEWEST_FOR_MIDDLE = 3.0, 8
#: Spreads, by both measures, this many times the scale, or this small a part of it. Of the public set six in seven lie
#: within 2.7 scales, the quartiles of a spread of 4; a tenth is the least of the units that are confused and leave the
#: middle near the centre. One far value in a small public set narrows all hospitals, so few values have to tell more.
_WIDE, _FEWEST_FOR_WIDE = 4.0, 10
_NARROW = ((0.1, 30), (0.03, 10))
#: Middle and spread by one and the same factor: pounds for kilograms, inches for centimetres. Read only where centre is
#: twice the scale or more, else a skewed column is like that by itself.
_FACTOR, _SAME, _CENTRE_OVER_SCALE, _MOVED, _FEWEST_FOR_FACTOR = 1.8, 1.35, 2.0, 1.5, 10
#: Of the public set one value in a hundred at most lies beyond ten scales, of a long-tailed column whose scale is from
#: a small public set a few more.
_CUT_SHARE, _FEWEST_CUT = 0.03, 2
#: A column of so many values is not constant by chance; nor is one of three categories or more. Two are how findings
#: are coded, and one that nobody has is no fault.
_FEWEST_FOR_CONSTANT, _FEWEST_FOR_ONE_CATEGORY = 10, 20
#: All 0 or all 1, as findings and counts are coded, are no fault where the plan makes that as likely as this.
_BY_CHANCE = 1e-3
#: Of a column that is constant in the public set, scale is 1 and centre that value, to four digits.
_PUBLIC = 1e-3
#: Values that the plan does not list: rare ones are what ``other`` is for, and half of a column is another coding.
_OTHER_SHARE, _FEWEST_OTHER, _LISTED = 0.5, 5, 10
#: Pixels: no window puts half of an image above its white, and white film is no more than three quarters of it. The
#: dark round a body may be four fifths of a mammogram, and is cut in a narrow window of CT.
_ABOVE, _WHITE, _BLACK = 0.5, 0.75, 0.85
#: So many grey values from black to white are no scale of fractions between -1 and 1.
_STEPS = 100
#: Grey values, but for one in a hundred at each end, within so small a part from black to white.
_FLAT = 0.1


@dataclass(frozen=True)
class Suspicion:
    """A sentence for whoever keeps the records; ``column`` is None of pixels."""

    kind: Kind
    column: str | None
    text: str


def of_columns(counts: Iterable[ColumnCounts], data: DataSection, patients: int) -> tuple[Suspicion, ...]:
    """What must be wrong with columns. ``patients`` bounds how many values are independent of one another."""
    found = list[Suspicion]()
    for one, column in zip(counts, data.columns, strict=True):
        match one:
            case NumericCounts():
                found += _numeric(one, column, patients)
            case CategoryCounts():
                found += _categorical(one)
            case _:
                assert_never(one)
    return tuple(found)


def of_tones(tones: Tones, greys: tuple[float, float], data: DataSection) -> tuple[Suspicion, ...]:
    """What must be wrong with images; ``greys`` are the first and the last percentile, black being 0 and white 1."""
    found, pixels = list[Suspicion](), tones.pixels or 1
    black, white = data.intensity
    asked = f"Is [data] intensity, {black:g} to {white:g}, right for these files?"
    if tones.above > _ABOVE * pixels or tones.white > _WHITE * pixels:
        found.append(Suspicion("white", None, f"{tones.white / pixels:.1%} of all pixels are white. {asked}"))
    if tones.black > _BLACK * pixels:
        found.append(Suspicion("black", None, f"{tones.black / pixels:.1%} of all pixels are black. {asked}"))
    if not found and greys[1] - greys[0] < _FLAT:
        ends = f"{greys[0]:.3g} to {greys[1]:.3g} with black 0 and white 1"
        found.append(Suspicion("flat", None, f"nearly all pixels are alike: {ends}. {asked}"))
    return tuple(found)


def of_image(raw: Values, whole: Values, tones: Tones, data: DataSection) -> Odd | None:
    """What is odd about one image: files of two scanners or two programs may lie together, and the sum shows neither.

    ``raw`` is a slice of ``whole``, or all of it. A dark or even slice is not odd: a volume's ends are like that.
    """
    if tones.above > _ABOVE * tones.pixels:
        return "white"
    if data.intensity[1] - data.intensity[0] < _STEPS or (raw == np.rint(raw)).all():
        return None
    small = all(values.min() >= -1 and values.max() <= 1 for values in (raw, whole))
    return "fractions" if small else None


def of_images(odd: Mapping[Odd, Collection[str]], data: DataSection) -> tuple[Suspicion, ...]:
    """The files that stand out, by their names."""
    words: dict[Odd, str] = {
        "white": "more than half of the pixels beyond white",
        "fractions": "only values between -1 and 1, fractions among them, as normalised images have",
    }
    asked = f"Is [data] intensity, {data.intensity[0]:g} to {data.intensity[1]:g}, right for these files?"
    return tuple(
        Suspicion(kind, None, f"{len(names)} file(s) have {words[kind]}: {listed(names)}. {asked}")
        for kind, names in odd.items()
    )


def _numeric(one: NumericCounts, column: Column, patients: int) -> Iterable[Suspicion]:
    """The first that explains most; what is cut is then no news."""
    if one.quantiles is None:
        yield Suspicion("missing", one.name, "every value is missing")
        return
    ends, plan = one.quantiles, f"the plan expects about {column.center:g}, give or take {column.scale:g}"
    unit = f"{plan}. Is it in the plan's unit?"
    if ends.smallest == ends.largest and one.cut < one.known:  # what was cut already is equal by that
        usual = column.scale == 1.0 and abs(one.middle) < _PUBLIC  # in the public set too
        if not usual and not _constant_by_chance(one, patients):
            yield Suspicion("constant", one.name, f"all {one.known} values are {ends.median:g}; {plan}")
    elif one.codes:
        for value, count in one.codes:
            often = f"{count} times ({count / one.known:.1%})"
            words = f"{value:.12g} comes {often}, far from all other values. If it stands for missing, leave it empty"
            yield Suspicion("code", one.name, words)
    elif one.known >= _FEWEST_FOR_MIDDLE and abs(one.middle) > _MIDDLE:
        words = f"the median is {ends.median:g}, {abs(one.middle):.3g} scales from the centre"
        yield Suspicion("middle", one.name, f"{words}; {unit}")
    elif (factor := _factor(one, column)) is not None:
        words = f"median ({ends.median:g}) and spread are both about {factor:.2g} times the plan's"
        yield Suspicion("factor", one.name, f"{words}; {unit}")
    elif _wide(one) or _narrow(one):
        words = f"half of the values lie from {ends.lower:g} to {ends.upper:g}"
        yield Suspicion("spread", one.name, f"{words}; {unit}")
    elif one.cut >= _FEWEST_CUT and one.cut > _CUT_SHARE * one.known:
        words = f"{one.cut} values ({one.cut / one.known:.1%}) are cut, beyond ten scales from the centre"
        yield Suspicion("cut", one.name, f"{words}; {plan}")


def _wide(one: NumericCounts) -> bool:
    """By both measures, for far values widen the one alone."""
    return one.known >= _FEWEST_FOR_WIDE and min(one.spread, one.quartile_spread) > _WIDE


def _narrow(one: NumericCounts) -> bool:
    """By both measures; where most values are equal, as of a rare finding, no unit has made them so."""
    larger = max(one.spread, one.quartile_spread)
    return one.quartile_spread > 0 and any(one.known >= few and larger < narrow for narrow, few in _NARROW)


def _factor(one: NumericCounts, column: Column) -> float | None:
    """By what both median and spread are multiplied, if it is one factor, far from 1, that moves the middle."""
    if one.quantiles is None or one.known < _FEWEST_FOR_FACTOR or abs(one.middle) < _MOVED:
        return None
    if abs(column.center) < _CENTRE_OVER_SCALE * column.scale:
        return None
    middle, spread = one.quantiles.median / column.center, one.quartile_spread or one.spread
    if middle <= 0 or spread <= 0 or 1 / _FACTOR < middle < _FACTOR or max(middle / spread, spread / middle) > _SAME:
        return None
    return middle


def _constant_by_chance(one: NumericCounts, patients: int) -> bool:
    """Whether a column may well be constant: it has few values, or a finding that nobody has, or everybody.

    A distribution with the plan's centre and scale has at most 1 / (1 + z^2) of its mass in one point z scales off, and
    as much if it has two values. So all values are there with a chance of at most that to the power of their number.
    """
    independent = min(one.known, patients)
    if one.quantiles is not None and one.quantiles.median in (0.0, 1.0):
        return float((1 + one.middle**2) ** -float(independent)) >= _BY_CHANCE
    return independent < _FEWEST_FOR_CONSTANT


def _categorical(one: CategoryCounts) -> Iterable[Suspicion]:
    if not one.known:
        yield Suspicion("missing", one.name, "every value is missing")
        return
    if one.other and _coded_otherwise(one, one.other):
        words = ", ".join(f"{value!r} {count}" for value, count in one.unlisted)
        named = f", most often {words}" if words else ""
        count = f"{one.other} values ({one.other / one.known:.1%}) are none of the plan's categories{named}"
        listed = ", ".join([*list(one.categories)[:_LISTED], *["..."][: len(one.categories) - _LISTED]])
        yield Suspicion("other", one.name, f"{count}; the plan lists {listed}")
    full = [name for name, count in one.categories.items() if count == one.known]
    if full and len(one.categories) > 2 and one.known >= _FEWEST_FOR_ONE_CATEGORY:
        yield Suspicion("constant", one.name, f"all {one.known} values are {full[0]!r}")


def _coded_otherwise(one: CategoryCounts, other: int) -> bool:
    """Whether what is not listed is most of the column, or is listed in other letters."""
    known = {name.casefold() for name in one.categories}
    alike = any(value.casefold() in known for value, _ in one.unlisted)
    return alike or (other >= _FEWEST_OTHER and other > _OTHER_SHARE * one.known)
