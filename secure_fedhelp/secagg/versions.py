"""The one version that every hospital must share.

TenSEAL's (and SEAL's) saved forms and defaults change between releases, so the version is pinned exactly and travels in
every upload's header. Read from the package's metadata, so that asking does not load the library.
"""

from __future__ import annotations

from importlib.metadata import version

TENSEAL_VERSION = version("tenseal")
