"""A method from outside this project, by its import path."""

from __future__ import annotations

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.imported import import_named
from secure_fedhelp.learning.method import Method


def import_method(path: str) -> type[Method]:
    """The class at ``package.module:Class``; InvalidPlan if there is none, or if it is no method."""
    found = import_named(path, "method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InvalidPlan(f"{path} is no subclass of secure_fedhelp.learning.method.Method")
    return found
