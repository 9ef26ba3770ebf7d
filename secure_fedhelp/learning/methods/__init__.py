"""One file a method, and the one place that knows which options are whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secure_fedhelp.study import methods as options

if TYPE_CHECKING:
    from secure_fedhelp.learning.method import Method, Site


def method_class(chosen: options.MethodSection) -> type[Method]:
    """The class of a plan's method. InvalidPlan if an imported one cannot be found or is none."""
    from secure_fedhelp.learning.methods.ditto import Ditto
    from secure_fedhelp.learning.methods.fedavg import FedAvg
    from secure_fedhelp.learning.methods.fedhelp import FedHelp
    from secure_fedhelp.learning.methods.fedprox import FedProx
    from secure_fedhelp.learning.methods.imported import import_method
    from secure_fedhelp.learning.methods.pfednet import PfedNet
    from secure_fedhelp.learning.methods.proxyfl import ProxyFl
    from secure_fedhelp.learning.methods.prr import Prr

    if isinstance(chosen, options.Imported):
        return import_method(chosen.path)
    built_in: dict[str, type[Method]] = {
        "ditto": Ditto,
        "fedavg": FedAvg,
        "fedhelp": FedHelp,
        "fedprox": FedProx,
        "pfednet": PfedNet,
        "proxyfl": ProxyFl,
        "prr": Prr,
    }
    return built_in[chosen.name]


def make_method(site: Site) -> Method:
    """The plan's method at one hospital. Raises as :func:`method_class` and :class:`Method` do."""
    return method_class(site.plan.method)(site)
