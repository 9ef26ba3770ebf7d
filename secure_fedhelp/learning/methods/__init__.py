"""One file a method, and the one place that knows which name is which class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.methods import Imported, MethodSection

if TYPE_CHECKING:
    from secure_fedhelp.learning.method import Method, Site

_CLASSES: Final = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "ditto": "Ditto",
    "fedhelp": "FedHelp",
    "prr": "Prr",
}


def method_class(chosen: MethodSection) -> type[Method]:
    """The class of a plan's method. InvalidPlan if an imported one cannot be found or is none."""
    from secure_fedhelp.learning.method import Method

    if isinstance(chosen, Imported):
        module, name = chosen.path.split(":")
    else:
        module, name = f"{__name__}.{chosen.name}", _CLASSES[chosen.name]
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "Install the package that holds it, or mend method.path in the plan."
        raise InvalidPlan(f"there is no method {module}:{name}: {error}", hint) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InvalidPlan(f"{module}:{name} is no subclass of secure_fedhelp.learning.method.Method")
    return found


def make_method(site: Site) -> Method:
    """The plan's method at one hospital. Raises as :func:`method_class` and :class:`Method` do."""
    return method_class(site.plan.method)(site)
