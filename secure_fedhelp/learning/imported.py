"""Code from outside this project, by its import path: the one place where a name in a plan becomes code that runs.

A plan names it and a hospital runs it, so the site policy has to name it first (``methods_allowed``,
``models_allowed``), and a hospital imports nothing before it has held the plan against its policy.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.reading import SOURCE, hash_bounded


def import_named(path: str, what: str) -> object:
    """The object at ``package.module:name``; InvalidPlan if there is none. ``what`` it should be, in a word."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = f"Install the package that holds it, or mend the path of the {what} in the plan."
        raise InvalidPlan(f"there is no {what} {path}: {error}", hint) from error


def source_sha256(path: str) -> str | None:
    """Of the file of ``package.module``, as it is now; None if there is none. What that file imports is not in it."""
    try:
        found = find_spec(path.partition(":")[0])
        return None if found is None or found.origin is None else hash_bounded(Path(found.origin), SOURCE)[1]
    except (ImportError, OSError, ValueError):
        return None
