"""How one hospital's exports are written: local settings, since two hospitals of a study may write another way.

None of them is guessed from a file. What does not fit is refused, and the refusal names the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import field_validator, model_validator

from secure_fedhelp.study.sections import Strict

#: The separators by their names in a file of settings, with the character that each is.
MARKS: Final[Mapping[str, str]] = {",": ",", ";": ";", "tab": "\t", "bar": "|"}
#: The hint of every refusal that another setting could mend.
WHERE: Final = (
    "Say how the file is written: [reading] in hospital.toml, [data.reading] in a study file. Nothing was trained and "
    "nothing was spent."
)


class Reading(Strict):
    """``[reading]`` of ``hospital.toml`` and ``[data.reading]`` of a study file."""

    #: Between the columns of a CSV file; the characters themselves, a tab and ``|``, are taken too.
    separator: Literal[",", ";", "tab", "bar"] = ","
    #: Between a number's whole part and its fraction, wherever a number is written as text.
    decimal: Literal[".", ","] = "."
    #: Between groups of three digits of a number's whole part; absent: such a number is refused. A blank stands for the
    #: no-break ones too.
    thousands: Literal[".", ",", " ", "'"] | None = None
    #: Texts that stand for a missing value, beside an empty cell and ``?``: ``["NA", "-999"]``. Numbers by their value.
    missing: tuple[str, ...] = ()
    #: What becomes of two spellings of one patient in one file: one patient with a note on the data card, or a refusal.
    spellings: Literal["merge", "refuse"] = "merge"

    @field_validator("separator", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {mark: name for name, mark in MARKS.items()}.get(value, value) if isinstance(value, str) else value

    @property
    def usual(self) -> bool:
        """Whether numbers are written as in a plan: a point, no marks between thousands."""
        return self.decimal == "." and self.thousands is None

    @model_validator(mode="after")
    def _told_apart(self) -> Reading:
        if self.thousands == self.decimal:
            raise ValueError(
                f"decimal and thousands are both {self.decimal!r}: 1{self.decimal}234 would be two numbers"
            )
        return self


#: A comma between columns, a point in numbers.
STANDARD: Final = Reading()
