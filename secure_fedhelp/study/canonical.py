"""One canonical form for everything that is hashed or signed.

Canonical JSON here is: UTF-8, keys sorted, no blanks, no NaN or infinity, one line. Two programs that agree on the
values agree on the bytes, so a hash or a signature can be checked by anybody with a JSON library.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

#: What the first link of a hash chain names as the one before it.
GENESIS: Final = "0" * 64


def canonical_bytes(value: Any) -> bytes:
    """The canonical JSON of ``value``; raises ValueError for NaN or infinity, TypeError for anything but JSON types."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of the canonical form of a JSON value, in hexadecimal."""
    return sha256_hex(canonical_bytes(value))
