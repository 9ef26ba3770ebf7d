"""Work that follows from public things alone, and so is the same at every hospital, done once in a process.

A deployed hospital is a process of its own and gains nothing here. A simulation is all hospitals in one, as threads:
without this, each would take the same public steps from the same start, half of all the time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.study.canonical import canonical_bytes

State = dict[str, Tensor]
#: Bytes of models that are kept. Hospitals of one study are at one round, or at two next to each other.
_KEPT = 64 * 2**20


class CommonWork:
    """Trained states by a digest of all that they follow from. Who comes while another is at it waits."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept, self._changed = kept, Condition()
        self._states: OrderedDict[str, State] = OrderedDict()
        self._at_work: set[str] = set()

    def once(self, key: str, model: nn.Module, work: Callable[[], None]) -> None:
        """Bring ``model`` to where ``work`` brings it, by doing it or by taking what came of it before.

        ``key`` has to say all that the work depends on, the model's state included (:func:`key_of`). If the work fails
        for one, the next who waits tries it.
        """
        with self._changed:
            self._changed.wait_for(lambda: key not in self._at_work)
            found = self._states.get(key)
            if found is None:
                self._at_work.add(key)
        if found is not None:
            model.load_state_dict(found)
            return
        try:
            work()
            with self._changed:
                self._keep(key, {name: values.detach().clone() for name, values in model.state_dict().items()})
        finally:
            with self._changed:
                self._at_work.discard(key)
                self._changed.notify_all()

    def forget(self) -> None:
        """Drop what is kept, so that everything is done anew; for tests that do the same twice."""
        with self._changed:
            self._states.clear()

    def _keep(self, key: str, state: State) -> None:
        self._states[key] = state
        while self._states and sum(map(_bytes, self._states.values())) > self._kept:
            self._states.popitem(last=False)


def _bytes(state: State) -> int:
    return sum(values.nbytes for values in state.values())


def key_of(model: nn.Module, settings: object, *arrays: NDArray[Any] | None) -> str:
    """SHA-256 over the model (its layers and their values), ``settings`` and ``arrays``."""
    digest = hashlib.sha256(canonical_bytes([repr(model), settings]))
    for name, values in model.state_dict().items():
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        digest.update(values.detach().numpy().tobytes())
    for array in arrays:
        about = "none" if array is None else f"{array.dtype} {array.shape}"
        digest.update(about.encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
