"""Which mechanism each channel is declared to carry: the gate lets nothing else through it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from secure_fedhelp.privacy.entries import How

#: ``public`` is allowed in each and means zeros (a round that has nothing to say there); the gate checks that.
DECLARED: Final[Mapping[str, frozenset[How]]] = MappingProxyType(
    {
        # Parameters after private training, minus the base that everybody knows.
        "model-update": frozenset({"dp-sgd", "public"}),
        # A trained model's answers on the *public* set. On private inputs they would be a release of their own.
        "public-logits": frozenset({"post-processing", "public"}),
        # Counts about records set aside.
        "metrics": frozenset({"gaussian", "pooled-exact", "public"}),
    }
)
