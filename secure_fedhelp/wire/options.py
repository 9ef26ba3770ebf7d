"""gRPC settings of both sides: sizes, keepalive, TLS. No unlimited value anywhere."""

from __future__ import annotations

import grpc

from secure_fedhelp.identity.tls import Credentials
from secure_fedhelp.wire.messages import MESSAGE_BYTES

Options = list[tuple[str, int]]

#: Calls one connection may have open. A hospital needs two at a time.
_CALLS_OF_A_CONNECTION = 8
_KEEPALIVE_MS = 20_000
_KEEPALIVE_TIMEOUT_MS = 10_000
_HANDSHAKE_MS = 20_000

_BOTH: Options = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Firewalls forget silent connections, and a dead peer would hold a thread for hours: both sides ask now and then.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # An address is dialled as it was given: a proxy of the environment would see who talks to whom, and the look at the
    # certificate before (probe.py) and the foundation model's client take none either.
    ("grpc.enable_http_proxy", 0),
]


def server_options(connections: int = 1000) -> Options:
    """``connections``: how many may be open at once, strangers' that never say anything included."""
    return [
        *_BOTH,
        ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
        # A stranger's connection that says nothing holds a file of the process for no longer.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # The rest of the process's files are for what is stored, so that calls in progress never wait for strangers.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.so_reuseport", 0),  # two servers on one port would each get some of the hospitals
    ]


def channel_options() -> Options:
    return [
        *_BOTH,
        ("grpc.enable_retries", 0),  # the client retries itself, and knows what may be repeated
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, without the old one's back-off
    ]


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    """Mutual TLS: who has no certificate of this consortium's CA does not get as far as a call."""
    pair = (credentials.key_pem, credentials.certificate_pem)
    return grpc.ssl_server_credentials([pair], root_certificates=credentials.ca_pem, require_client_auth=True)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """Mutual TLS: only a server with a certificate of this CA (usage: server) for the dialled host is talked to."""
    return grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.certificate_pem)
