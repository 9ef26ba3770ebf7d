"""A method from outside this project, by its import path.

It is code that a plan names and a hospital runs, so the site policy has to name it first (``methods_allowed``), and a
hospital imports nothing before it has held the plan against its policy.
"""

from __future__ import annotations

from importlib import import_module

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.method import Method


def import_method(path: str) -> type[Method]:
    """The class at ``package.module:Class``; InvalidPlan if there is none, or if it is no method."""
    module, name = path.split(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "Install the package that holds it, or mend method.path in the plan."
        raise InvalidPlan(f"there is no method {path}: {error}", hint) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InvalidPlan(f"{path} is no subclass of secure_fedhelp.learning.method.Method")
    return found
