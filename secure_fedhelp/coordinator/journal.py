"""What must survive a crash, in order: every accepted event of a study, in SQLite.

The state is never stored: after a restart the same events go through the same pure rules and give the same state. An
event is durable (write-ahead log, ``synchronous=FULL``) before anybody is told that it was accepted. ``at`` is the time
the rules saw, so that deadlines come out the same.

Bytes that the rules need not see lie beside the events, stored in the same transaction: study keys sealed to members
(kept: a member that comes back gets its own), and of the running attempt only, records of shares sealed to their
holders and the shares that survivors have revealed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from secure_fedhelp.coordinator.events import (
    Event,
    KeyPosted,
    Published,
    Revealed,
    SharesPosted,
    event_json,
    parse_event,
)
from secure_fedhelp.errors import InvalidConfiguration, PlanChanged, StorageError

_TABLES = """
CREATE TABLE IF NOT EXISTS study (hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, published INTEGER UNIQUE, event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sealed_keys (
    epoch INTEGER NOT NULL, member TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (epoch, member));
CREATE TABLE IF NOT EXISTS records (
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, holder TEXT NOT NULL, dealer TEXT NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (round, attempt, holder, dealer));
CREATE TABLE IF NOT EXISTS reveals (
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL, reveal BLOB NOT NULL,
    PRIMARY KEY (round, attempt, name));
"""


class Journal:
    """One study's events, and the bytes that came with some of them. Not thread-safe: the keeper has the lock."""

    def __init__(self, path: Path, study: str) -> None:
        """Open or create the journal of the study with this hash.

        Raises PlanChanged if it holds another study, InvalidConfiguration if another process has it open (two
        coordinators would tell two truths), StorageError if it cannot be read or written.
        """
        self._path = path
        try:
            path.touch(mode=0o600)  # the log beside it gets the same mode
            self._database = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
            self._open(study)
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise InvalidConfiguration(
                    f"{path} is in use by another coordinator", "Stop the other one first, or choose another folder."
                ) from error
            raise StorageError(f"cannot open {path}: {error}") from error

    def _open(self, study: str) -> None:
        # One process only, from the first write to the end; the lock dies with the process, also by kill -9.
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA secure_delete=ON")  # shares that are forgotten are overwritten
        self._database.execute("PRAGMA temp_store=MEMORY")  # no statement waits for a file descriptor, or leaves a file
        with self._transaction():
            for table in _TABLES.split(";"):
                self._database.execute(table)
            found = self._database.execute("SELECT hash FROM study").fetchone()
            if found is None:
                self._database.execute("INSERT INTO study VALUES (?)", (study,))
        if found is not None and found[0] != study:
            self._database.close()
            raise PlanChanged(
                f"{self._path} holds study {found[0][:16]}, the plan is study {study[:16]}",
                "Use the plan this folder was started with, or a new folder for a new study.",
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def append(self, event: Event, at: float, beside: Mapping[str, bytes] | None = None) -> None:
        """Make an event durable, with what lies beside it; StorageError, and nothing is stored.

        ``beside`` are the sealed keys of a KeyPosted by member, the records of a SharesPosted by holder, or what is
        revealed by the one who does.
        """
        published = event.round if isinstance(event, Published) else None
        try:
            with self._transaction():
                self._database.execute(
                    "INSERT INTO events (at, published, event) VALUES (?, ?, ?)", (at, published, event_json(event))
                )
                self._store_beside(event, beside or {})
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path}: {error}") from error

    def _store_beside(self, event: Event, beside: Mapping[str, bytes]) -> None:
        if isinstance(event, KeyPosted):
            keys = [(event.epoch, name, data) for name, data in beside.items()]
            self._database.executemany("INSERT INTO sealed_keys VALUES (?, ?, ?)", keys)
        elif isinstance(event, SharesPosted):
            records = [(event.round, event.attempt, holder, event.name, data) for holder, data in beside.items()]
            self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", records)
        elif isinstance(event, Revealed):
            reveals = [(event.round, event.attempt, name, data) for name, data in beside.items()]
            self._database.executemany("INSERT INTO reveals VALUES (?, ?, ?, ?)", reveals)

    def forget_shares_before(self, place: tuple[int, int]) -> None:
        """Erase the shares of all rounds and attempts before this one; StorageError."""
        try:
            with self._transaction():
                self._database.execute("DELETE FROM records WHERE (round, attempt) < (?, ?)", place)
                self._database.execute("DELETE FROM reveals WHERE (round, attempt) < (?, ?)", place)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path}: {error}") from error

    def events(self) -> Iterator[tuple[Event, float]]:
        """Every event in order, with the time the rules saw it; StorageError if one cannot be read."""
        try:
            for at, text in self._database.execute("SELECT at, event FROM events ORDER BY number"):
                yield parse_event(text), at
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def lines(self, from_round: int = 0) -> Iterator[bytes]:
        """The published transcript lines from a round on, without line feeds; StorageError."""
        query = "SELECT event FROM events WHERE published >= ? ORDER BY published"
        try:
            for (text,) in self._database.execute(query, (from_round,)):
                event = parse_event(text)
                if isinstance(event, Published):
                    yield event.line
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def sealed_key(self, epoch: int, member: str) -> bytes:
        """A member's sealed key of an epoch; empty if there is none. StorageError."""
        query = "SELECT member, sealed FROM sealed_keys WHERE epoch = ? AND member = ?"
        return self._by_name(query, (epoch, member)).get(member, b"")

    def records(self, place: tuple[int, int], holder: str) -> dict[str, bytes]:
        """The records of one holder in an attempt, by dealer; StorageError."""
        query = "SELECT dealer, record FROM records WHERE (round, attempt) = (?, ?) AND holder = ?"
        return self._by_name(query, (*place, holder))

    def reveals(self, place: tuple[int, int]) -> dict[str, bytes]:
        """What was revealed in an attempt, by name; StorageError."""
        return self._by_name("SELECT name, reveal FROM reveals WHERE (round, attempt) = (?, ?)", place)

    def _by_name(self, query: str, values: tuple[object, ...]) -> dict[str, bytes]:
        try:
            return {str(name): bytes(data) for name, data in self._database.execute(query, values)}
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def close(self) -> None:
        self._database.close()
