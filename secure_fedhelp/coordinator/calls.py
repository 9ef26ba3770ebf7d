"""How many calls one hospital may have open, whatever they ask for, and how long one may be silent.

gRPC gives every call a thread of the pool before its first message has arrived, also one whose handler takes a single
message. A member that opened calls and then said nothing would soon hold all threads, and the others' rounds would
fail. So each call is counted under its caller's name *before* anything is read, and its messages are read under that
count: the pool has room for every hospital's count at once (see ``service.pool_size``).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from secure_fedhelp.errors import ProtocolError, TooManyCalls
from secure_fedhelp.wire.failures import answering

#: A hospital speaks with one thread. After a network failure the coordinator may still hold what its dead connections
#: had open: one watch (returns within WATCH_SECONDS), one upload, one download. With its new call, that makes four.
LIVE_CALLS = 5
#: A call that has neither received nor sent a message for so long is ended: a chunk of 1 MiB needs 28 kbit/s.
SILENT_SECONDS = 300.0


class Calls(grpc.ServerInterceptor):  # type: ignore[type-arg]  # only generic in the stubs
    """Around every handler of a server. ``caller`` names who calls, or raises a FedHelpError for a stranger."""

    def __init__(
        self, caller: Callable[[grpc.ServicerContext], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._caller, self._clock = caller, clock
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._heard: dict[grpc.ServicerContext, float] = {}

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The same handler under the count. On the wire a single request is a stream of one message."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        wrap, behaviour = (
            (grpc.stream_stream_rpc_method_handler, self._streaming)
            if handler.response_streaming
            else (grpc.stream_unary_rpc_method_handler, self._single)
        )
        return wrap(behaviour(handler), handler.request_deserializer, handler.response_serializer)

    def _single(self, handler: Any) -> Callable[[Iterator[Any], grpc.ServicerContext], Any]:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with self._counted(context):
                if handler.request_streaming:
                    return handler.stream_unary(self._heard_of(requests, context), context)
                return handler.unary_unary(_one(requests, context), context)

        return answer

    def _streaming(self, handler: Any) -> Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._counted(context):
                yield from self._heard_of(handler.unary_stream(_one(requests, context), context), context)

        return answer

    @contextmanager
    def _counted(self, context: grpc.ServicerContext) -> Iterator[None]:
        with answering(context):
            name = self._caller(context)
            self._enter(name, context)
        try:
            yield
        finally:
            with self._lock:
                self._open[name] -= 1
                del self._heard[context]

    def _enter(self, name: str, context: grpc.ServicerContext) -> None:
        now = self._clock()
        with self._lock:
            silent = [other for other, heard in self._heard.items() if now - heard > SILENT_SECONDS]
            full = self._open[name] >= LIVE_CALLS
            if not full:
                self._open[name] += 1
                self._heard[context] = now
        for other in silent:
            other.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if full:
            raise TooManyCalls(f"{name} has {LIVE_CALLS} calls open already")

    def _heard_of(self, messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for message in messages:
            with self._lock:
                self._heard[context] = self._clock()
            yield message


def _one(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
    with answering(context):
        request = next(requests, None)
        if request is None:
            raise ProtocolError("a call without its request")
    return request
