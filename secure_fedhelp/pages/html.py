"""Templates of self-contained pages: every value is escaped, a misspelt one is an error, the style is shared."""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


@cache
def environment(package: str) -> Environment:
    """Templates of ``package`` (its folder ``templates``), and those of this room: ``head.html``, ``page.css``."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("secure_fedhelp.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
