"""The sum of the running attempt, body by body as uploads are accepted, so that little is left to do when it closes.

Memory holds one total and the hospitals' seeds. After a restart the bodies that are still on the disk are added again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secure_fedhelp.coordinator.spool import Spool
from secure_fedhelp.coordinator.state import State
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.profiles import Profile


class RunningSum:
    """The sum of one attempt after another. For one thread, which need not hold the keeper's lock."""

    def __init__(self, spool: Spool, profile: Profile, length: Callable[[int], int]) -> None:
        self._spool, self._profile, self._length = spool, profile, length
        self._place: tuple[int, int] | None = None
        self._added: set[str] = set()
        self._sum: SumAccumulator | None = None

    def add_next(self, state: State) -> bool:
        """Add one more of the accepted uploads of ``state``; False if all are in the sum. StorageError.

        An attempt's uploads only become more; with another attempt or round the sum begins anew.
        """
        if state.over or state.place != self._place:
            self._place, self._added, self._sum = state.place, set(), None
        if state.over:
            return False
        waiting = sorted(state.uploads.keys() - self._added)
        if not waiting:
            return False
        self._sum = self._sum or SumAccumulator(self._profile, self._length(state.round))
        self._spool.add(self._sum, state.uploads[waiting[0]].header)
        self._added.add(waiting[0])
        return True

    def finish(self, state: State, plus: Sequence[bytes], minus: Sequence[bytes]) -> tuple[str, int]:
        """Store the sum of all uploads of ``state`` with these keys' masks added and subtracted: its SHA-256, its
        length. The running sum is used up by it."""
        while self.add_next(state):
            pass
        total = self._sum or SumAccumulator(self._profile, self._length(state.round))
        self._place, self._sum = None, None
        if plus or minus:
            add_expanded(total.total, self._profile, plus, minus)
        return self._spool.store_sum(state.round, total.finish())
