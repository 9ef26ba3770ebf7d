"""Work that follows from public things alone, and so is the same at every hospital, done once in a process.

A deployed hospital is a process of its own and gains nothing here. A simulation is all hospitals in one, as threads:
without this, each would take the same public steps from the same start, half of all the time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.study.canonical import canonical_bytes

State = dict[str, Tensor]
#: Models that are kept. Hospitals of one study are at one round, or at two next to each other.
_KEPT = 32


class CommonWork:
    """Trained states by a digest of all that they follow from. Who comes second waits for the first."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept, self._lock = kept, Lock()
        self._states: OrderedDict[str, Future[State]] = OrderedDict()

    def once(self, key: str, model: nn.Module, work: Callable[[], None]) -> None:
        """Bring ``model`` to where ``work`` brings it, by doing it or by taking what came of it before.

        ``key`` has to say all that the work depends on, the model's state included (:func:`key_of`).
        """
        with self._lock:
            found = self._states.get(key)
            mine = found is None
            if found is None:
                found = self._states[key] = Future()
                while len(self._states) > self._kept:
                    self._states.popitem(last=False)
        if not mine:
            model.load_state_dict(found.result())
            return
        try:
            work()
        except BaseException as error:
            with self._lock:
                self._states.pop(key, None)
            found.set_exception(error)
            raise
        found.set_result({name: values.detach().clone() for name, values in model.state_dict().items()})


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
