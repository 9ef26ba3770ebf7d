"""A look at the server's certificate before gRPC connects, so that what is wrong has a name.

gRPC reports a failed handshake as "unavailable", the same as a server that is not there. Here the certificate is
fetched with the ssl module and put through our own checks; our own certificate is presented, so that a refusal by the
other side shows too. No message is sent. gRPC's connection checks chain, usage and host again on its own.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509

from secure_fedhelp.errors import IdentityError, StorageError
from secure_fedhelp.identity.certificates import Identity, check_certificate
from secure_fedhelp.identity.tls import Credentials


class Refused(OSError):
    """The server ended the connection when it had seen our certificate (or happened to stop at that moment)."""


def probe(host: str, port: int, credentials: Credentials, now: float, timeout: float) -> Identity:
    """Whom the server's certificate names, after every check: our CA signed it, it is valid now and for ``host``.

    Raises WrongAuthority, CertificateExpired, CertificateRevoked (by the revocation list in our own folder) or
    IdentityError for either side's certificate, Refused, and OSError if
    nobody answers (or not with TLS) within ``timeout`` seconds.
    """
    check_certificate(credentials.certificate_pem, credentials.ca_pem, now, credentials.revocations)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is trusted because of this connection: the certificate is taken as bytes and checked below.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with _memory_file(credentials.certificate_pem + b"\n" + credentials.key_pem) as path:
        context.load_cert_chain(path)
    with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as secure:
        der = secure.getpeercert(binary_form=True) or b""
        identity = _check(ssl.DER_cert_to_PEM_cert(der).encode(), credentials, host, now)
        _await_verdict(secure)
    return identity


def _check(certificate_pem: bytes, credentials: Credentials, host: str, now: float) -> Identity:
    try:
        identity = check_certificate(certificate_pem, credentials.ca_pem, now, credentials.revocations)
    except IdentityError as error:
        raise type(error)(f"the coordinator's certificate: {error.message}", error.hint) from error
    if identity.role != "coordinator":
        raise IdentityError(f"the server at {host} is {identity.role} {identity.name}, not a coordinator")
    names = x509.load_pem_x509_certificate(certificate_pem).extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {*hosts.get_values_for_type(x509.DNSName), *map(str, hosts.get_values_for_type(x509.IPAddress))}
    if _normal(host) not in known:
        raise IdentityError(
            f"the certificate of coordinator {identity.name} is for {', '.join(sorted(known))}, not for {host}",
            "Use the host name the certificate was made for, or have it signed again with this one.",
        )
    return identity


def _normal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _await_verdict(secure: ssl.SSLSocket) -> None:
    """In TLS 1.3 the server judges our certificate after our side is done: its first bytes mean that it was accepted.

    gRPC's server refuses by closing, without an alert that would say why.
    """
    try:
        accepted = secure.recv(1)
    except (ssl.SSLError, ConnectionError) as error:
        raise Refused(f"the coordinator ended the connection ({error})") from error
    if not accepted:
        raise Refused("the coordinator ended the connection")


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path to ``data`` in an anonymous memory file: the ssl module takes a private key from a path only."""
    if not hasattr(os, "memfd_create"):
        raise StorageError("this system has no anonymous memory files", "Run on Linux; keys must not touch a disk.")
    descriptor = os.memfd_create("secure-fedhelp", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
