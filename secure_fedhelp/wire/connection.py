"""A connection that outlives the server: calls are repeated over new channels until patience ends.

What may be repeated is the client's business (every call of the protocol is idempotent or refused by name); here it
is decided only *what counts as nobody being there*.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import grpc

from secure_fedhelp.errors import (
    CannotJudgeNow,
    CoordinatorUnreachable,
    IdentityError,
    MessageTooLarge,
    ProtocolError,
    TooManyCalls,
    WrongAuthority,
)
from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.wire.address import join_address, parse_address
from secure_fedhelp.wire.failures import named_error
from secure_fedhelp.wire.generated.coordinator_pb2_grpc import CoordinatorStub
from secure_fedhelp.wire.options import channel_credentials, channel_options
from secure_fedhelp.wire.probe import Refused, probe

Answer = TypeVar("Answer")
#: Opens a channel to the coordinator for the member with these credentials.
Dial = Callable[[Credentials], grpc.Channel]

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_PROBE_SECONDS = 10.0
#: Waiting is told once it has lasted, and then now and then.
_QUIET_SECONDS, _TOLD_AGAIN_SECONDS = 5.0, 60.0
#: A server that stops may end one connection like this; one that does it again and again does not want us.
_REFUSALS = 3
#: Ends that mean "not now" and not "no": the server is away, too slow, too busy, or a newer call took our place.
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}

log = logging.getLogger(__name__)


class Connection:
    """Calls to one coordinator, of one thread at a time."""

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        consortium: str,
        coordinator_name: str | None,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        dial: Dial | None = None,
    ) -> None:
        """Nothing is sent yet. ``dial`` opens a channel in another way than TLS to ``address`` (wire/memory.py).

        InvalidConfiguration if ``address`` is not HOST:PORT.
        """
        self._host, self._port = parse_address(address)
        self._credentials, self._consortium, self._name = credentials, consortium, coordinator_name
        self._sleep, self._clock, self._dial = sleep, clock, dial
        self._channel: grpc.Channel | None = None
        self._patience_since = 0.0
        self._refusals = 0
        self._told_at = float("-inf")

    def run(self, operation: Callable[[CoordinatorStub], Answer], patience_seconds: float) -> Answer:
        """What ``operation`` returns, repeated while nobody is there.

        Raises the named error the coordinator answered with, ProtocolError for any other refusal, and
        CoordinatorUnreachable after ``patience_seconds`` in which nothing was heard (see :meth:`heard`), or nothing
        but that it cannot judge now.
        """
        self.heard()
        wait = _FIRST_WAIT_SECONDS
        while True:
            before = self._patience_since
            try:
                return operation(self._stub())
            except grpc.RpcError as error:
                answered, problem = _transient(error)
            except OSError as error:
                answered, problem = False, str(error)
            if not answered:
                self.close()  # a connection that works is kept: the other side may have no file left for a new one
            if self._patience_since > before:
                wait = _FIRST_WAIT_SECONDS
            left = self._patience_since + patience_seconds - self._clock()
            if left <= 0:
                raise self._unreachable(answered, problem)
            self._tell(answered, problem, left)
            self._sleep(min(wait, left))
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _tell(self, answered: bool, problem: str, left: float) -> None:
        now = self._clock()
        if now - self._patience_since >= _QUIET_SECONDS and now - self._told_at >= _TOLD_AGAIN_SECONDS:
            self._told_at = now
            log.warning("%s; trying again for up to %.0f s", self._trouble(answered, problem), left)

    def _trouble(self, answered: bool, problem: str) -> str:
        where = join_address(self._host, self._port)
        return f"{where} {'cannot judge now' if answered else 'does not answer'}: {problem}"

    def _unreachable(self, answered: bool, problem: str) -> CoordinatorUnreachable:
        if not answered:
            return CoordinatorUnreachable(self._trouble(answered, problem))
        return CoordinatorUnreachable(
            self._trouble(answered, problem),
            "The coordinator's log says what it lacks. Run the same command again; the study goes on where it was.",
        )

    def heard(self) -> None:
        """The other side is there and getting on: patience counts anew."""
        self._patience_since = self._clock()

    def close(self) -> None:
        """Give the channel up; the next call makes a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _stub(self) -> CoordinatorStub:
        if self._channel is None and self._dial is not None:
            self._channel = self._dial(self._credentials)
        elif self._channel is None:
            self._check_server()
            self._channel = grpc.secure_channel(
                join_address(self._host, self._port),
                channel_credentials(self._credentials),
                options=channel_options(),
            )
        return CoordinatorStub(self._channel)  # type: ignore[no-untyped-call]  # generated without types

    def _check_server(self) -> None:
        try:
            identity = probe(self._host, self._port, self._credentials, self._clock(), _PROBE_SECONDS)
        except Refused as error:
            self._refusals += 1
            if self._refusals < _REFUSALS:
                raise
            raise IdentityError(
                "the coordinator refuses our certificate",
                "Compare ca.crt with the coordinator's, and check both machines' clocks.",
            ) from error
        self._refusals = 0
        if identity.consortium != self._consortium:
            raise WrongAuthority(f"the coordinator is of consortium {identity.consortium}, not {self._consortium}")
        if self._name is not None and identity.name != self._name:
            raise IdentityError(f"the server is coordinator {identity.name}, not {self._name}")


def _transient(error: grpc.RpcError) -> tuple[bool, str]:
    """Whether it is the coordinator itself that cannot answer now, and what it, the network or gRPC complained of, if
    trying again may help; raises the named error otherwise."""
    named = named_error(error)
    if isinstance(named, CannotJudgeNow):
        return True, named.message
    if isinstance(named, TooManyCalls):
        return False, named.message  # of connections that died, most likely: the coordinator will notice
    if named is not None:
        raise named from error
    if not isinstance(error, grpc.Call):
        return False, str(error)
    code, details = error.code(), error.details() or ""
    if "larger than max" in details:  # gRPC's own words for a message beyond MESSAGE_BYTES
        raise MessageTooLarge(f"a message was refused for its size: {details}") from error
    # A server that dies in the middle of a stream shows as UNKNOWN "Stream removed".
    if code in _TRANSIENT or (code is grpc.StatusCode.UNKNOWN and "Stream removed" in details):
        return False, f"{code.name.lower()} ({details})"
    raise ProtocolError(f"the coordinator refused the call: {code.name} {details}") from error
