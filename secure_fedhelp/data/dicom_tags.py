"""The elements of a DICOM header: an empty one is an absent one, and one that contradicts its kind is named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secure_fedhelp.errors import InvalidData

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_AGAIN = "Its header contradicts itself: export it again from its source, or leave it out. Nothing was spent."


@dataclass(frozen=True)
class Tags:
    """A data set, or an item of a sequence, and the name by which a person knows the file. All raise InvalidData."""

    data: Dataset
    where: str

    def values(self, keyword: str) -> tuple[Any, ...]:
        """All values of an element; none where it is absent or empty."""
        try:
            found = self.data.get(keyword)
        except Exception as error:  # values are converted when they are asked for, by many rules
            raise InvalidData(f"{self.where}: {keyword} cannot be read: {error}", _AGAIN) from error
        if found is None or isinstance(found, (str, bytes)):
            found = [found] if found else []
        elif not hasattr(found, "__len__"):
            found = [found]
        return tuple(value for value in found if value is not None and value != "")

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """So many finite numbers, or None where the element is absent or empty."""
        found = self.values(keyword)
        if not found:
            return None
        try:
            numbers = tuple(float(value) for value in found)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidData(f"{self.where}: {keyword} is no number: {str(found[0])[:40]!r}", _AGAIN) from error
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            shown = ", ".join(f"{number:g}" for number in numbers[:6])
            raise InvalidData(f"{self.where}: {keyword} is {shown}; {count} finite numbers are needed", _AGAIN)
        return numbers

    def number(self, keyword: str) -> float | None:
        """A finite number, or None."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def whole(self, keyword: str) -> int | None:
        """A whole number, or None."""
        found = self.number(keyword)
        if found is not None and found != int(found):
            raise InvalidData(f"{self.where}: {keyword} is {found:g}, no whole number", _AGAIN)
        return None if found is None else int(found)

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Words, without the spaces that pad them."""
        return tuple(text for value in self.values(keyword) if (text := str(value).strip(" \0")))

    def text(self, keyword: str) -> str:
        """One word or UID, or nothing where the element is absent or empty."""
        found = self.texts(keyword)
        if len(found) > 1:
            raise InvalidData(f"{self.where}: {keyword} has {len(found)} values, one is needed", _AGAIN)
        return found[0] if found else ""

    def items(self, keyword: str) -> tuple[Tags, ...]:
        """The items of a sequence."""
        found = self.values(keyword)
        if any(not hasattr(item, "get") for item in found):
            raise InvalidData(f"{self.where}: {keyword} is no sequence", _AGAIN)
        return tuple(Tags(item, self.where) for item in found)

    def item(self, keyword: str) -> Tags | None:
        """The only item of a sequence, or None."""
        found = self.items(keyword)
        if len(found) > 1:
            raise InvalidData(f"{self.where}: {keyword} has {len(found)} items, one is needed", _AGAIN)
        return found[0] if found else None


class Frames:
    """What a header says of each frame: at its root, or in functional groups, shared ones or the frame's own."""

    def __init__(self, root: Tags) -> None:
        self.root = root
        self.count = _count(root)
        self._shared = root.item("SharedFunctionalGroupsSequence")
        self._own = root.items("PerFrameFunctionalGroupsSequence")
        if self._own and len(self._own) != self.count:
            said = f"{self.count} frames (NumberOfFrames), and functional groups of {len(self._own)}"
            raise InvalidData(f"{root.where}: {said}", _AGAIN)

    @property
    def grouped(self) -> bool:
        """Whether there are functional groups, as in the enhanced kinds."""
        return self._shared is not None or bool(self._own)

    def group(self, frame: int, keyword: str) -> Tags | None:
        """The functional group of that name for a frame, or None. InvalidData where shared and own ones compete."""
        shared = None if self._shared is None else self._shared.item(keyword)
        own = self._own[frame].item(keyword) if self._own else None
        if shared is not None and own is not None and shared.data != own.data:
            said = f"{keyword} for all frames, and another one for frame {frame + 1}"
            raise InvalidData(f"{self.root.where}: {said}", _AGAIN)
        return own if own is not None else shared

    def groups(self, keyword: str) -> Iterator[Tags | None]:
        """The functional group of that name for each frame."""
        return (self.group(frame, keyword) for frame in range(self.count))


def _count(root: Tags) -> int:
    found = root.whole("NumberOfFrames")
    if found is not None and found < 1:
        raise InvalidData(f"{root.where}: {found} frames (NumberOfFrames)", _AGAIN)
    return 1 if found is None else found
