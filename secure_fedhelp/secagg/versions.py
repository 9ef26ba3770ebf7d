"""The one version that every hospital must share.

TenSEAL's (and SEAL's) saved forms and defaults change between releases, so the version is pinned exactly and travels in
every upload's header. Read from the package's metadata, so that asking does not load the library.
"""

from __future__ import annotations

from importlib.metadata import version

from secure_fedhelp.errors import VersionMismatch

TENSEAL_VERSION = version("tenseal")


def check_tenseal_version(other: str) -> None:
    """Raise VersionMismatch unless ``other``, which somebody else claims to run, is exactly ours."""
    if other != TENSEAL_VERSION:
        raise VersionMismatch(f"TenSEAL {TENSEAL_VERSION} here, {other[:40]!r} on the other side")
