"""One HTTP request to an inference server: tried again while its trouble passes, and bounded in time and size.

Redirects are not followed and proxies from the environment are not used: either would carry the question to an
endpoint that the site policy does not name. A bearer token goes nowhere but into the header of these requests: it is
hidden where it could be printed, and where the server's own words repeat it.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from secure_fedhelp.errors import FedHelpError, FoundationAnswerInvalid, FoundationUnavailable, InvalidConfiguration

#: Seconds between attempts while the server is down or starting: five attempts, about eight seconds in all.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
#: A server may ask for a longer pause (Retry-After); more than this is not waited for at once.
LONGEST_PAUSE_SECONDS = 60.0
#: Worth another attempt; every other status would be the same again.
PASSING_STATUS = frozenset({429, 500, 502, 503, 504})
#: Optional endpoints that a server may lack: not found, method not allowed, not implemented.
ABSENT_STATUS = frozenset({404, 405, 501})
#: An answer that is no tensor, and what of a refusal is read.
ANSWER_BYTES = 2**16
#: Of the server's own words so many characters are shown.
SHOWN_WORDS = 200
#: Says where in an answer the JSON ends and the tensors' bytes begin (Triton's binary tensor data extension).
JSON_LENGTH = "inference-header-content-length"
BASE_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Za-z0-9._~/-]*)?")
_LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/.*)?")
#: RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LONGEST_TOKEN = 16_384

#: The server points elsewhere.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HINT_REDIRECT = (
    "It points elsewhere, to https or to another path perhaps, and redirects are not followed. Write the address that "
    "answers itself as url into hospital.toml; the policy has to allow it."
)
HINTS = {
    401: "It wants to know who asks: name a file with a bearer token, token_file, in [[foundations]] of hospital.toml.",
    403: "Ask its operator for the right to use this model; token_file in [[foundations]] says who asks.",
    404: "Compare model and version in hospital.toml with what the server lists (GET /v2/models/NAME).",
    413: "Ask less at once: set largest_batch in [[foundations]] of hospital.toml.",
    429: "It answers too many at the moment. Run the command again later: nothing was kept or spent.",
    503: "It is starting, or busy. Run the command again later: nothing was kept or spent.",
}
_HINT_TOKEN = "The bearer token in token_file is not accepted: it may have ended, or be another server's."  # noqa: S105
_HINT_CA = "If the server's certificate is by your own authority, name its file: ca_file in [[foundations]]."


class Token:
    """A bearer token, which no text made of this object shows."""

    def __init__(self, text: str) -> None:
        """InvalidConfiguration, which does not repeat it, for text that is none."""
        if len(text) > _LONGEST_TOKEN or not _TOKEN.fullmatch(text):
            raise InvalidConfiguration(
                "token_file holds no bearer token: letters, digits and -._~+/ on one line, '=' at the end",
                "Write the token alone into the file, without the word Bearer.",
            )
        self._text = text

    def __repr__(self) -> str:
        return "Token(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("a token is not pickled")

    @property
    def header(self) -> str:
        return f"Bearer {self._text}"

    def hidden_in(self, words: str) -> str:
        """``words`` without the token, if the server repeated it."""
        return words.replace(self._text, "[token]")


@dataclass(frozen=True)
class Answered:
    """Status and body of one request; ``json_bytes`` of the body are JSON, the rest are bytes of tensors."""

    status: int
    body: bytes = field(repr=False)
    json_bytes: int


class InferenceHttp:
    """One server, until it is closed; a context manager. ``sleep`` waits between attempts."""

    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None,
        trusted: ssl.SSLContext | None,
        token: Token | None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self._timeout, self._token = url, timeout_seconds, token
        self._sleep, self._monotonic = sleep, monotonic
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if token is not None:
            headers["authorization"] = token.header
        self._http = httpx.Client(
            transport=transport,
            timeout=timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            verify=True if trusted is None else trusted,
            headers=headers,
        )

    def __enter__(self) -> InferenceHttp:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, largest: int, content: bytes | None = None, json_bytes: int | None = None
    ) -> Answered:
        """The answer to one request, tried again while the server is down; asking twice changes nothing there.

        ``json_bytes`` of ``content`` are JSON, if not all. Raises FoundationUnavailable, and FoundationAnswerInvalid
        for an answer of more than ``largest`` bytes or a compressed one.
        """
        trouble, status = "", 0
        for pause in (*PAUSES_SECONDS, None):
            asked_pause = 0.0
            try:
                answered, asked_pause = self._once(method, path, largest, content, json_bytes)
                if answered.status not in PASSING_STATUS:
                    return answered
                status, trouble = answered.status, f"HTTP {answered.status}{self.words(answered.body)}"
            except httpx.TimeoutException as error:  # it had its time; asking again would only wait again
                raise FoundationUnavailable(f"{self.url}{path}: no answer in {self._timeout:g} seconds") from error
            except httpx.RequestError as error:
                status, trouble = 0, str(error)[:SHOWN_WORDS] or type(error).__name__
                if _is_certificate(error):  # no attempt will change it
                    raise FoundationUnavailable(f"{self.url}: {trouble}", _HINT_CA) from error
            if pause is not None:
                self._sleep(min(max(pause, asked_pause), LONGEST_PAUSE_SECONDS))
        raise FoundationUnavailable(
            f"{self.url}{path}: {trouble} ({len(PAUSES_SECONDS) + 1} attempts)", HINTS.get(status)
        )

    def refusal(self, what: str, answered: Answered) -> FedHelpError:
        """The error for a status that is none of success: what the server said, and what to do about it."""
        status = answered.status
        hint = _HINT_TOKEN if status == 401 and self._token is not None else HINTS.get(status)
        if status in _REDIRECTS:
            hint = _HINT_REDIRECT
        kind = FoundationUnavailable if status in (*HINTS, 405) or status >= 500 else FoundationAnswerInvalid
        return kind(f"{what}: HTTP {status}{self.words(answered.body)}", hint)

    def words(self, body: bytes) -> str:
        """The server's own words after a status, shortened, printable only and without the token."""
        said = " ".join(_words(body).split())
        if self._token is not None:
            said = self._token.hidden_in(said)
        said = "".join(c if c.isprintable() else " " for c in said[:SHOWN_WORDS])
        return f" ({said})" if said else ""

    def _once(
        self, method: str, path: str, largest: int, content: bytes | None, json_bytes: int | None
    ) -> tuple[Answered, float]:
        """The answer to one attempt, and the seconds that the server asks to wait for."""
        headers = {} if content is None else {"content-type": "application/json"}
        if json_bytes is not None:
            headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(json_bytes)}
        deadline = self._monotonic() + self._timeout
        with self._http.stream(method, self.url + path, content=content, headers=headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                # A few compressed bytes may unpack to gigabytes; we asked for none.
                raise self.invalid("a compressed answer, which was not asked for")
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if response.status_code >= 400 and len(body) > ANSWER_BYTES:
                    del body[ANSWER_BYTES:]  # of a refusal only the beginning is shown
                    break
                if len(body) > largest:
                    raise self.invalid(f"more than {largest} bytes, which is more than the question can need")
                if self._monotonic() > deadline:  # httpx bounds each read; a server that drips would go on for ever
                    raise httpx.ReadTimeout("slow answer", request=response.request)
            length = response.headers.get(JSON_LENGTH, str(len(body)))
            if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > len(body):
                raise self.invalid(f"{JSON_LENGTH} {length[:32]!r} of an answer of {len(body)} bytes")
            wait = response.headers.get("retry-after", "")
            seconds = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0
            return Answered(response.status_code, bytes(body), int(length)), seconds

    def invalid(self, what: str, hint: str | None = None) -> FoundationAnswerInvalid:
        return FoundationAnswerInvalid(f"foundation server {self.url}: {what}", hint)


def checked_url(url: str) -> str:
    """The server's base URL without a trailing slash; InvalidConfiguration if it is not a plain http(s) address."""
    if "@" in url:
        # A password would be written to the cache's record and into messages; and a policy that allows
        # http://inside must not be fooled by http://inside@outside.
        raise InvalidConfiguration("foundation URL: a user name or password in it is refused")
    found = BASE_URL.fullmatch(url)
    if found is None or int(found["port"] or 0) >= 2**16:
        raise InvalidConfiguration(f"foundation URL {url[:200]!r}: http://host:port or https://host expected")
    return url.rstrip("/")


def require_closed(url: str) -> None:
    """InvalidConfiguration for a token that would travel in clear: whoever reads it can ask in the hospital's name."""
    if url.startswith("http:") and not _LOOPBACK.fullmatch(url):
        raise InvalidConfiguration(
            f"{url}: a bearer token would go over plain HTTP", "Use https:// (ca_file names your own authority)."
        )


def trusting(url: str, ca_pem: bytes) -> ssl.SSLContext:
    """TLS that trusts the authorities in ``ca_pem`` and no others; InvalidConfiguration."""
    if url.startswith("http:"):
        raise InvalidConfiguration(f"{url}: ca_file for a server without TLS", "Use https://, or remove ca_file.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfiguration("ca_file holds no certificate", "Give a file of PEM certificates.") from error
    return context


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _words(body: bytes) -> str:
    """What a refusal says: ``error`` of the protocol, ``detail`` or ``message`` of gateways, or its text.

    Of a Python traceback it is the last line, which says what happened; a page of HTML says nothing.
    """
    text = body.decode("utf-8", errors="replace").strip()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):
        found = next((values[key] for key in ("error", "detail", "message") if values.get(key)), "")
        return _detail(found)
    if not text or text[0] in "<{[" or values is not None:
        return ""
    return text.splitlines()[-1] if text.startswith("Traceback ") else text


def _detail(found: object) -> str:
    """One complaint as text; of FastAPI's list the first, with its place."""
    if isinstance(found, list) and found and isinstance(found[0], dict):
        place = ".".join(str(part) for part in found[0].get("loc") or ())
        return f"{place}: {found[0].get('msg', '')}"
    return found if isinstance(found, str) else ""
