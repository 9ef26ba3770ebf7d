"""``HOST:PORT`` as people type it."""

from __future__ import annotations

from secure_fedhelp.errors import InvalidConfiguration

_HINT = "Write HOST:PORT, for example fed.example:8443, 127.0.0.1:8443 or [::1]:8443."


def parse_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of an address; InvalidConfiguration if it is none. Port 0 means any."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not bare or bracketed != (":" in bare):
        raise InvalidConfiguration(f"not an address: {address!r}", _HINT)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidConfiguration(f"not a port: {port!r}", _HINT)
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of :func:`parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
