"""Errors across the wire: a FedHelpError becomes a status with trailing metadata, and the same class again.

Only names in our own tree are turned back into classes, and message and hint are plain text of bounded length.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc

from secure_fedhelp.errors import CannotJudgeNow, FedHelpError, StorageError, error_classes

_NAME, _MESSAGE, _HINT = "fedhelp-error", "fedhelp-message-bin", "fedhelp-hint-bin"
#: Metadata travel in HTTP/2 headers, which gRPC limits to 8 KiB altogether.
_TEXT_BYTES = 1500

log = logging.getLogger(__name__)


def abort(context: grpc.ServicerContext, error: FedHelpError) -> NoReturn:
    """End the call with ``error``; raises, as gRPC's own abort does."""
    context.set_trailing_metadata(
        (
            (_NAME, type(error).__name__),
            (_MESSAGE, error.message.encode()[:_TEXT_BYTES]),
            (_HINT, error.hint.encode()[:_TEXT_BYTES]),
        )
    )
    context.abort(grpc.StatusCode[error.status], type(error).__name__)


def named_error(error: grpc.RpcError) -> FedHelpError | None:
    """The FedHelpError the other side ended the call with, or None if the network or gRPC itself did."""
    metadata: dict[str, object] = dict(error.trailing_metadata() or ()) if isinstance(error, grpc.Call) else {}
    cls = error_classes().get(str(metadata.get(_NAME, "")))
    if cls is None:
        return None
    return cls(_text(metadata.get(_MESSAGE)), _text(metadata.get(_HINT)) or None)


def _text(value: object) -> str:
    """Printable text only: it goes to a terminal, and the other side may not be our friend."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
    return "".join(c if c.isprintable() else " " for c in text)[:_TEXT_BYTES]


class _Seldom:
    """Logs what goes wrong again and again once a minute: every hospital tries every few seconds."""

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._lock = seconds, clock, threading.Lock()
        self._logged: dict[str, float] = {}

    def error(self, what: str, why: object) -> None:
        now = self._clock()
        with self._lock:
            if now - self._logged.get(what, float("-inf")) < self._seconds:
                return
            self._logged[what] = now
        log.error("%s: %s; hospitals wait and try again", what, why)


_seldom = _Seldom()


@contextlib.contextmanager
def answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Around a handler: whatever it raises reaches the caller as a status, and never as a traceback.

    There are three answers. A FedHelpError says no. What the coordinator lacks itself (a disk, a file descriptor,
    memory) is CannotJudgeNow: callers wait and try again, and are not told more of this machine. Anything else is a
    fault of the code.
    """
    try:
        yield
    except StorageError as error:
        _seldom.error("cannot store", error.message)
        abort(context, CannotJudgeNow("the coordinator cannot store anything at the moment"))
    except FedHelpError as error:
        abort(context, error)
    except grpc.RpcError:
        raise  # the caller went away in the middle of its stream
    except (OSError, MemoryError) as error:
        _seldom.error("a call could not be answered", error)
        abort(context, CannotJudgeNow("the coordinator has not what it needs to answer at the moment"))
    except Exception:
        log.exception("a handler failed")
        context.abort(grpc.StatusCode.INTERNAL, "internal error")
