"""What a compressed frame says of itself, read before a decoder sees it: a size to unpack must be the header's.

JPEG and JPEG-LS: ITU-T T.81, annex B, and T.87, annex C. JPEG 2000: ITU-T T.800, annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: Start-of-frame markers of JPEG and JPEG-LS by their second byte.
_STARTS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class Codestream:
    """Size and depth of one compressed frame. ``process`` is its start-of-frame marker; 0 for JPEG 2000."""

    rows: int
    columns: int
    samples: int
    bits: int
    process: int
    #: Whether the numbers have a sign; None where the format cannot say.
    signed: bool | None = None

    @property
    def is_sequential(self) -> bool:
        """Whether it is lossy JPEG, baseline or extended, which has 8 bits or 12."""
        return self.process in (0xC0, 0xC1)


def jpeg(frame: bytes) -> Codestream | None:
    """Of a JPEG or JPEG-LS frame, or None for what is none."""
    if frame[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF or marker in _STANDALONE:  # a filling byte, or a marker without a segment
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _STARTS:
            if place + 10 > len(frame):
                return None
            bits, rows, columns, samples = struct.unpack(">BHHB", frame[place + 4 : place + 10])
            return Codestream(rows, columns, samples, bits, marker)
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def jpeg2000(frame: bytes) -> Codestream | None:
    """Of a JPEG 2000 frame (HTJ2K too), or None for what is none, such as one within a JP2 file."""
    if frame[:4] != b"\xff\x4f\xff\x51" or len(frame) < 45:
        return None
    right, bottom, left, top = struct.unpack(">4I", frame[8:24])
    samples, depth = int.from_bytes(frame[40:42], "big"), frame[42]
    return Codestream(bottom - top, right - left, samples, (depth & 0x7F) + 1, 0, bool(depth & 0x80))


def is_whole(frame: bytes) -> bool:
    """Whether a frame of JPEG, JPEG-LS or JPEG 2000 ends with its end mark; filling bytes may follow."""
    return frame.rstrip(b"\0\xff").endswith(b"\xff\xd9")
