"""Revocation lists (X.509 CRLs, RFC 5280) as files that people carry to each member.

The consortium's CA stands on a machine that answers no network, so a list is not fetched: its administrator sends
``revoked.crl`` and each member puts it into its folder, where running processes notice it.

A file that is being replaced is empty, half or gone for a moment, and that says nothing about anybody. So the last good
list stays in force until a good one that is not older has been read whole: nobody is let in whom it revokes, and
nobody is turned away because of a file. It is kept beside the file too, so that a restart knows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from cryptography import x509

from secure_fedhelp.errors import FedHelpError, RevocationsUnreadable, StorageError, WrongAuthority
from secure_fedhelp.identity import pem
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import REVOCATIONS, read_bounded

#: The file a member is sent, and where the last good one is kept, in the folder of its certificate.
LIST_FILE: Final = "revoked.crl"
KEPT_FILE: Final = "revoked.last.crl"
#: A member's line for its log, whenever what is in force and why has changed.
Tell = Callable[[str], None]

_HINT = "Copy revoked.crl from the consortium again, under another name first, and then rename it: that takes no time."
#: A trouble that comes and goes is told once in so many seconds.
_QUIET_SECONDS = 60.0
#: How long a start waits for a list that cannot be read and has no good one before it: a copy is done by then.
_START_SECONDS = 5.0
_LOOK_SECONDS = 0.05
#: File systems note times in steps of some milliseconds; a change within one step would leave the same mark.
_CLOCK_STEP_NS = 20_000_000
#: Device, inode, size, time of the last write and of the last change of any kind (nanoseconds).
_Mark = tuple[int, ...]


@dataclass(frozen=True)
class Revocations:
    """A checked list: its number (each list's is at least the last one's), when it was made and when it ends (unix
    seconds), and the serial numbers on it."""

    number: int
    serials: frozenset[int]
    made: float
    not_after: float

    def contains(self, serial: int, now: float) -> bool:
        """Whether a serial number is on the list; RevocationsUnreadable if the list ran out before ``now``: that is
        the trouble of whoever has the list, and no fault of whom it should judge.

        A list from the near future is accepted: a clock a minute slow must not keep a revoked member in.
        """
        if now > self.not_after:
            raise RevocationsUnreadable(
                "the revocation list ran out", "Ask the consortium for a new revoked.crl; then try again."
            )
        return serial in self.serials

    def older_than(self, other: Revocations) -> bool:
        """By number, and by date among those of one number."""
        return (self.number, self.made) < (other.number, other.made)

    def pardons(self, other: Revocations) -> frozenset[int]:
        """Whom ``other`` revokes and this list does not. No list of an authority takes a revocation back, so such a
        list is of an authority whose folder was put back from an older copy, whatever its number."""
        return other.serials - self.serials


def read_revocations(crl_pem: bytes, authority: x509.Certificate) -> Revocations:
    """The list in ``crl_pem``; RevocationsUnreadable if it is malformed, as half a list is, and WrongAuthority if
    ``authority`` did not sign it."""
    key = pem.require_p256(authority.public_key(), "consortium CA")
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        if crl.issuer != authority.subject or not crl.is_signature_valid(key):
            raise WrongAuthority("the revocation list was not signed by this consortium's CA", _HINT)
        if crl.next_update_utc is None:
            raise WrongAuthority("the revocation list does not say how long it holds", _HINT)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        serials = frozenset(entry.serial_number for entry in crl)
    except (*pem.MALFORMED, x509.ExtensionNotFound) as error:
        raise RevocationsUnreadable("the revocation list is malformed, or only half of one") from error
    return Revocations(number, serials, crl.last_update_utc.timestamp(), crl.next_update_utc.timestamp())


@dataclass
class RevocationList:
    """The revocation list of a long-running process: the file ``revoked.crl`` in a member's ``folder``, read again
    whenever it changes.

    The last good list stays in force while the file is gone, cannot be read, is half a list or another authority's,
    or is older than a list read before: an old list put back, and a list taken away, pardon nobody. ``tell`` hears of
    each change between "the file is in force" and "an earlier list is", at most about once a minute. The last good
    list is also kept in ``revoked.last.crl``, so that this holds over restarts.

    Where there is no good list, nobody can be judged: see :meth:`contains`. A folder that has neither file, nor a link
    in the place of one, has never had a list, which means that nothing was revoked yet: the consortium may never have
    had a reason to send one.
    Safe to call from several threads.
    """

    folder: Path
    ca_pem: bytes = field(repr=False)
    tell: Tell = field(default=lambda line: None, repr=False)

    def __post_init__(self) -> None:
        self._path, self._kept = self.folder / LIST_FILE, self.folder / KEPT_FILE
        self._authority = pem.read_authority(self.ca_pem)
        self._lock = Lock()
        self._mark: _Mark | None = None
        self._list: Revocations | None = None
        self._pem: bytes | None = None
        # A link whose list is not there yet (a mounted folder), or a kept list that cannot be read, says that there is
        # one: only where nothing has these names was nothing ever revoked.
        self._seen = os.path.lexists(self._path) or os.path.lexists(self._kept)
        #: Whether the list in force still has to be kept, and when that was last tried.
        self._unkept, self._tried_at = False, float("-inf")
        #: What is wrong with the file now, what was last said of it, and when.
        self._trouble: FedHelpError | None = None
        self._said, self._said_at = "", float("-inf")
        self._load_kept()

    def start(self, now: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Look at the file for the first time, and wait some seconds for a copy that is under way.

        Raises RevocationsUnreadable or WrongAuthority, as what is wrong with it, if then there is no good list, new
        or kept.
        """
        waited = 0.0
        while True:
            with self._lock:
                self._refresh(now + waited)
                if self._list is not None or self._trouble is None:
                    return
                if waited >= _START_SECONDS:
                    raise self._trouble
            sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS

    def contains(self, serial: int, now: float) -> bool:
        """Whether the list in force has the certificate with this serial number, at ``now`` (unix seconds).

        RevocationsUnreadable if there is no good list, or the last one ran out: then nobody can be judged.
        """
        with self._lock:
            self._refresh(now)
            if self._list is None:
                if self._trouble is not None:
                    # What is wrong stands in this side's log: who asks needs no path of this machine.
                    raise RevocationsUnreadable("there is no revocation list to judge by")
                return False
            return self._list.contains(serial, now)

    @property
    def in_force(self) -> bytes | None:
        """The list in force as PEM; None if nothing was revoked yet."""
        return self._pem

    # -- inside, under the lock -----------------------------------------------------------------------------------

    def _refresh(self, now: float) -> None:
        """Read the file if it changed. What fails a check is not remembered, so the next call reads it again."""
        try:
            self._read()
            self._trouble = None
        except (RevocationsUnreadable, WrongAuthority) as error:
            self._trouble = error
        self._report(now)
        if self._unkept and not 0 <= now - self._tried_at < _QUIET_SECONDS:
            self._keep(now)

    def _read(self) -> None:
        try:
            # Looked at by name: an unchanged list needs no open file, of which there may be none left.
            found = self._path.stat()
            self._seen = True
            mark = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if mark == self._mark:
                return
            content = read_bounded(self._path, REVOCATIONS)
        except FileNotFoundError as error:
            if self._seen or self._list is not None:
                raise RevocationsUnreadable(f"{self._path} is gone") from error
            return
        except OSError as error:
            raise RevocationsUnreadable(f"cannot read {self._path}: {error.strerror or error}") from error
        fresh = read_revocations(content, self._authority)
        if self._list is not None and fresh.older_than(self._list):
            raise WrongAuthority(
                f"revocation list {fresh.number} took the place of list {self._list.number}, which is newer", _HINT
            )
        if self._list is not None and (lost := fresh.pardons(self._list)):
            raise WrongAuthority(
                f"revocation list {fresh.number} lacks {len(lost)} certificate(s) of list {self._list.number}",
                "The authority's folder was put back from an older copy: revoke there again whom it has forgotten.",
            )
        if content != self._pem:
            self._unkept, self._tried_at = True, float("-inf")
        self._list, self._pem = fresh, content
        self._mark = mark if time.time_ns() - found.st_ctime_ns > _CLOCK_STEP_NS else None

    def _load_kept(self) -> None:
        """What an earlier run had in force. One of another authority is of before the authority was renewed, and says
        nothing of this one's lists."""
        try:
            content = read_bounded(self._kept, REVOCATIONS)
            self._list, self._pem = read_revocations(content, self._authority), content
        except FileNotFoundError:
            return
        except (OSError, RevocationsUnreadable) as error:
            said = getattr(error, "strerror", None) or error
            self.tell(f"{self._kept} cannot be read, so an older revocation list would not be noticed: {said}")
        except WrongAuthority:
            self._seen = os.path.lexists(self._path)

    def _keep(self, now: float) -> None:
        """For the next start. A folder that cannot be written to still has the list in force while this one runs; it is
        tried again, since a disk that was full is not for ever."""
        assert self._pem is not None  # noqa: S101 - what is to be kept has been read
        first, self._tried_at = self._tried_at == float("-inf"), now
        try:
            write_atomic(self._kept, self._pem)
            self._unkept = False
        except StorageError as error:
            if first:
                self.tell(f"{error.message}: a restart would not know which revocation list was in force")

    def _report(self, now: float) -> None:
        """Tell of a change, of one that comes and goes again and again once a minute."""
        said = "" if self._trouble is None else self._trouble.message
        if said == self._said:
            return
        if self._trouble is None:
            number = self._list.number if self._list else 0
            self.tell(f"revocation list {number} is read whole and in force")
        elif 0 <= now - self._said_at < _QUIET_SECONDS:
            return
        else:
            self._said_at = now
            held = f"list {self._list.number} stays in force" if self._list else "there is no good list yet"
            self.tell(f"{said}: {held}. {self._trouble.hint}")
        self._said = said
