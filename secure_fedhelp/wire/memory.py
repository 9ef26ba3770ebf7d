"""The wire without a network: a channel whose calls run the coordinator's handlers in the caller's own thread.

For simulations and tests. Client and handlers are the real ones; every message is serialised and parsed as on the
wire, so neither side holds the other's objects, and an error arrives as the same status. What is missing is TLS, HTTP/2
and the limit on open calls: whoever has the channel is believed to be the holder of ``certificate_pem``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]


class MemoryChannel(grpc.Channel):
    """A channel to ``servicer`` for the member with this certificate (PEM)."""

    def __init__(self, servicer: object, certificate_pem: bytes) -> None:
        self._servicer, self._certificate = servicer, certificate_pem

    def unary_unary(self, method: str, *codecs: Any, **named: Any) -> Any:
        return self._caller(method, _one, _one, *codecs, **named)

    def unary_stream(self, method: str, *codecs: Any, **named: Any) -> Any:
        return self._caller(method, _one, _each, *codecs, **named)

    def stream_unary(self, method: str, *codecs: Any, **named: Any) -> Any:
        return self._caller(method, _each, _one, *codecs, **named)

    def stream_stream(self, method: str, *codecs: Any, **named: Any) -> Any:
        return self._caller(method, _each, _each, *codecs, **named)

    def _caller(
        self,
        method: str,
        carry: Callable[[Any, Callable[[Any], Any]], Any],
        bring: Callable[[Any, Callable[[Any], Any]], Any],
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **_: Any,
    ) -> Callable[..., Any]:
        handler = getattr(self._servicer, method.rpartition("/")[2])

        def sent(message: Any) -> Any:
            return type(message).FromString(request_serializer(message))

        def call(request: Any, timeout: float | None = None, **_: Any) -> Any:
            answer = handler(carry(request, sent), MemoryContext(self._certificate))
            return bring(answer, lambda message: response_deserializer(message.SerializeToString()))

        return call

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Nobody waits for a connection here."""

    def unsubscribe(self, callback: Any) -> None:
        """See :meth:`subscribe`."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> MemoryChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MemoryContext:
    """What a handler sees of a call: who calls, and how to end it with an error."""

    def __init__(self, certificate_pem: bytes) -> None:
        self._certificate = certificate_pem
        self._metadata: Metadata = ()

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise MemoryCallError(code, details, self._metadata)

    def cancel(self) -> None:
        """A stream in memory ends with its caller, who is this very thread: there is no older one to cancel."""


class MemoryCallError(grpc.RpcError, grpc.Call):
    """A call that ended with a status, as gRPC's client raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        super().__init__(f"{code.name} {details}")
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata

    def initial_metadata(self) -> Metadata:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False


def _one(message: Any, through: Callable[[Any], Any]) -> Any:
    return through(message)


def _each(messages: Any, through: Callable[[Any], Any]) -> Iterator[Any]:
    return _Stream(through, messages)


class _Stream(Iterator[Any]):
    """Messages one by one, as they are asked for; a caller that has enough cancels, and the handler ends."""

    def __init__(self, through: Callable[[Any], Any], messages: Any) -> None:
        self._through, self._messages = through, iter(messages)

    def __next__(self) -> Any:
        return self._through(next(self._messages))

    def cancel(self) -> None:
        close = getattr(self._messages, "close", None)
        if close is not None:
            close()
