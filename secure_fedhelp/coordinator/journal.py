"""What must survive a crash, in order: every accepted event of a study, in SQLite.

The state is never stored: after a restart the same events go through the same pure rules and give the same state. An
event is durable (write-ahead log, ``synchronous=FULL``) before anybody is told that it was accepted. ``at`` is the time
the rules saw, so that deadlines come out the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from secure_fedhelp.coordinator.events import Event, KeyPosted, Published, event_json, parse_event
from secure_fedhelp.errors import InvalidConfiguration, PlanChanged, StorageError

_TABLES = """
CREATE TABLE IF NOT EXISTS study (hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, published INTEGER UNIQUE, event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sealed_keys (
    epoch INTEGER NOT NULL, member TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (epoch, member));
"""


class Journal:
    """One study's events, and the sealed keys that came with some of them. Not thread-safe: the keeper has the lock."""

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

    def append(self, event: Event, at: float, sealed: Mapping[str, bytes] | None = None) -> None:
        """Make an event durable, with the sealed keys of a KeyPosted; StorageError, and nothing is stored."""
        published = event.round if isinstance(event, Published) else None
        try:
            with self._transaction():
                self._database.execute(
                    "INSERT INTO events (at, published, event) VALUES (?, ?, ?)", (at, published, event_json(event))
                )
                if isinstance(event, KeyPosted) and sealed is not None:
                    rows = [(event.epoch, name, data) for name, data in sealed.items()]
                    self._database.executemany("INSERT INTO sealed_keys VALUES (?, ?, ?)", rows)
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
        """The published transcript lines from a round on, without line feeds."""
        rows = self._database.execute("SELECT event FROM events WHERE published >= ? ORDER BY published", (from_round,))
        for (text,) in rows:
            event = parse_event(text)
            if isinstance(event, Published):
                yield event.line

    def sealed_key(self, epoch: int, member: str) -> bytes:
        """A member's sealed key of an epoch; empty if there is none."""
        row = self._database.execute(
            "SELECT sealed FROM sealed_keys WHERE epoch = ? AND member = ?", (epoch, member)
        ).fetchone()
        return b"" if row is None else bytes(row[0])

    def close(self) -> None:
        self._database.close()
