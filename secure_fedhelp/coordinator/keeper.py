"""The one place where state, rules, journal and lock meet.

Handlers of many hospitals call :meth:`Keeper.submit` and :meth:`Keeper.watch` from many threads; one event at a time
goes through the rules, then onto the disk, and only then into the state that others see. One thread calls
:meth:`Keeper.work`, which lets time pass and, beside the lock, adds uploads to the sum and publishes closed rounds.

A coordinator that cannot store stops: after a StorageError nothing is accepted any more, because what is on the disk
may be less than what somebody was told. A restart reads the disk and goes on. What could not even be begun, because no
file descriptor was left (NoFileLeft), is tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from secure_fedhelp.coordinator.admission import Admission, Constants, admit
from secure_fedhelp.coordinator.events import Event, Joined, Published, Restarted, SumLost, Ticked
from secure_fedhelp.coordinator.journal import Journal
from secure_fedhelp.coordinator.progress import describe
from secure_fedhelp.coordinator.publication import signed_line, transcript_entry
from secure_fedhelp.coordinator.rounds import Rounds
from secure_fedhelp.coordinator.running_sum import RunningSum
from secure_fedhelp.coordinator.sharing import mask_keys
from secure_fedhelp.coordinator.spool import Spool
from secure_fedhelp.coordinator.state import State, public_state
from secure_fedhelp.coordinator.transcript_file import TranscriptFile
from secure_fedhelp.errors import FedHelpError, NoFileLeft, StorageError, StudyEnded
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.versions import TENSEAL_VERSION
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import WATCH_SECONDS, Phase, StudyState

Clock = Callable[[], float]

_RESTORE = "Restore the coordinator's folder from a backup, or start a new study in a new folder."


class Keeper:
    """A study kept in a folder: ``journal.sqlite``, ``uploads/``, ``sums/`` and ``transcript.jsonl``."""

    def __init__(self, folder: Path, plan: StudyPlan, key: SigningKey, clock: Clock) -> None:
        """Open or create; what an earlier run stored is replayed through the rules.

        Raises InvalidPlan for an unknown profile, PlanChanged, InvalidConfiguration or StorageError as the journal.
        """
        chosen = plan_profile(plan)
        self.plan = plan
        self._key, self._clock = key, clock
        constants = Constants(plan, TENSEAL_VERSION)
        self._rules = Rounds(constants)
        self.spool = Spool(folder, chosen, plan.length_of)
        self._sum = RunningSum(self.spool, chosen, plan.length_of)
        self._tidied = (-1, -1)
        self._journal = Journal(folder / "journal.sqlite", plan.hash)
        self._changed = threading.Condition()
        self._watchers: dict[str, int] = {}
        self._news: list[str] = []
        #: Hospitals that came for the first time when the study was over, and were told so by this process.
        self.turned_away: set[str] = set()
        self._broken: StorageError | None = None
        self._closing = self._lacking = False
        self._state = self._replay()
        self._transcript = TranscriptFile(folder / "transcript.jsonl", self._journal.lines())
        self._tidy()

    def _replay(self) -> State:
        state: State | None = None
        try:
            for event, at in self._journal.events():
                state = self._rules.start(at) if state is None else self._rules.apply(state, event, at)
        except StorageError:
            raise
        except FedHelpError as error:
            raise StorageError(f"the journal breaks the rules: {error.message}", _RESTORE) from error
        now = self._clock()
        # The first event of every journal is Restarted, at the time the study began: it fixes the first deadline.
        self._journal.append(Restarted(), now)
        if state is None:
            return self._rules.start(now)
        self._news.append(f"going on in phase {state.phase.value}, {state.round} rounds published")
        return self._rules.apply(state, Restarted(), now)

    # -- what handlers ask ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The present state: one frozen value, safe to read from any thread."""
        return self._state

    def present(self) -> State:
        """The state once time has passed; StorageError when the keeper is broken."""
        with self._changed:
            self._require_working()
            self._tick()
            return self._state

    def admit(self, name: str, header: bytes, signature: bytes) -> Admission:
        """Whether an upload may count now (see admission.py); time has passed first."""
        with self._changed:
            self._tick()
            return admit(self._rules.constants, self._state, name, header, signature)

    def submit(self, event: Event, beside: Mapping[str, bytes] | None = None) -> State:
        """Put one event through the rules and onto the disk, with what lies ``beside`` it (see journal.py).

        The error of the rules, or StorageError, if it is refused.
        """
        with self._changed:
            self._tick()
            try:
                return self._apply(event, beside)
            except StudyEnded:
                if isinstance(event, Joined):
                    self.turned_away.add(event.name)
                raise

    def watch(self, name: str, known_version: int, wait_seconds: float) -> StudyState:
        """The public state, as soon as its version is another; after ``wait_seconds`` at the latest.

        A member's newer watch lets its older one return at once, so a hospital holds one waiting thread at most.
        """
        with self._changed:
            mine = self._watchers[name] = self._watchers.get(name, 0) + 1
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._state.version != known_version or self._watchers[name] != mine or self._stopping,
                timeout=min(max(wait_seconds, 0.0), WATCH_SECONDS),
            )
            return public_state(self.plan, self._state)

    def sealed_key(self, epoch: int, member: str) -> bytes:
        """The member's sealed key of an epoch, as the maker posted it; empty if there is none."""
        with self._changed:
            return self._journal.sealed_key(epoch, member)

    def held_by(self, name: str) -> tuple[State, dict[str, bytes]]:
        """The present state, time having passed, and by dealer the records of shares that ``name`` holds in it."""
        with self._changed:
            self._tick()
            return self._state, self._journal.records(self._state.place, name)

    def lines(self, from_round: int) -> list[bytes]:
        """The published transcript lines from a round on."""
        with self._changed:
            return list(self._journal.lines(from_round))

    # -- what the server's loop does ------------------------------------------------------------------------------

    def work(self) -> State:
        """Let time pass, add accepted uploads to the sum, and publish the round if it is closed.

        Returns the state that was dealt with; a newer one may be there by then, with more to do. Without a file to open
        what is left is for the next call. Raises StorageError when the keeper is broken.
        """
        try:
            state = self.present()
            self._transcript.settle()
            self._tidy()
            while self._sum.add_next(state):
                state = self.present()
            if state.phase is Phase.SUMMING:
                self._publish(state)
                self._tidy()
            self.lacking(None)
            return state
        except NoFileLeft as error:
            self.lacking(error)
            return self._state
        except StorageError as error:
            self.broken(error)
            raise

    def note(self, line: str) -> None:
        """Put a line for a person among the news."""
        with self._changed:
            self._news.append(line)

    def lacking(self, error: NoFileLeft | None) -> None:
        """Tell once that work waits for a file descriptor, and once that it goes on."""
        if (error is not None) != self._lacking:
            self._lacking = error is not None
            self.note("files can be opened again" if error is None else f"waiting: {error.message}. {error.hint}")

    def news(self) -> list[str]:
        """What happened since the last call, in lines for a person."""
        with self._changed:
            news, self._news = self._news, []
        return news

    def wait(self, known: State, seconds: float) -> None:
        """Return as soon as the state is another than ``known``, after ``seconds`` at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not known or self._stopping, timeout=seconds)

    def stop_waiting(self) -> None:
        """Let every watch and wait return now: the server is about to stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        self.stop_waiting()
        with self._changed:
            self._broken = self._broken or StorageError("the coordinator has stopped", "Start it again to go on.")
            self._journal.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self._closing or self._broken is not None

    def broken(self, error: StorageError) -> None:
        """Nothing more can be stored: accept nothing any more."""
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def _require_working(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _tick(self) -> None:
        if self._clock() >= self._state.deadline:
            self._apply(Ticked(), None)

    def _apply(self, event: Event, beside: Mapping[str, bytes] | None) -> State:
        self._require_working()
        now = self._clock()
        before, after = self._state, self._rules.apply(self._state, event, now)
        if after is before:
            return after
        try:
            self._journal.append(self._rules.record(before, event, after), now, beside)
        except StorageError as error:
            self.broken(error)
            raise
        self._state = after
        self._changed.notify_all()
        self._news.extend(describe(self.plan, before, event, after))
        return after

    def _tidy(self) -> None:
        """Erase what only rounds and attempts that are over needed."""
        place = self._state.place
        if place != self._tidied:
            self.spool.forget_bodies_before(place)
            with self._changed:
                self._journal.forget_shares_before(place)
            self._tidied = place

    def _publish(self, state: State) -> None:
        """Publish the closed round's sum. Everything here is deterministic, so a crash on the way costs nothing: the
        next start adds again and signs the same line."""
        try:
            plus, minus = self._mask_keys(state)
        except StorageError:
            raise
        except FedHelpError as error:
            # Whatever is wrong with the shares stays wrong: the next start must not stumble over it again.
            self.submit(SumLost(round=state.round, message=error.message))
            return
        digest, size = self._sum.finish(state, plus, minus)
        line = signed_line(transcript_entry(self.plan, state, digest, size), self._key)
        with self._changed:
            if self._state.phase is not Phase.SUMMING:
                return  # the study ended while this was added up, for all who listen: nothing to publish
            self._apply(Published(round=state.round, line=line), None)
            self._transcript.append(line)

    def _mask_keys(self, state: State) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        if self.plan.aggregation.masks == "none":
            return (), ()
        with self._changed:
            reveals = self._journal.reveals(state.place)
        return mask_keys(self.plan, state, reveals)
