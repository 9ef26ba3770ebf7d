"""What a hospital gets from outside its own folder: time, and ways to reach the coordinator and the foundation model.

The default is the real thing. A simulation passes its own, and everything between is the deployed code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

    from secure_fedhelp.wire.connection import Dial


@dataclass(frozen=True)
class World:
    """``dial`` and ``foundation`` None: over TLS and over HTTP, to the addresses of the configuration."""

    #: Unix seconds.
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    dial: Dial | None = None
    foundation: httpx.BaseTransport | None = None
    #: Whether somebody may start a hospital again that has ended with an error.
    comes_back: bool = True


REAL = World()
