"""A signature holds for one key, one purpose, one message; anything else is BadSignature and nothing else."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from unlocking import UNLOCK

from secure_fedhelp.errors import BadSignature, IdentityError, InvalidConfiguration, StorageError, UnsafePermissions
from secure_fedhelp.identity import signing
from secure_fedhelp.identity.sealed_files import write_key
from secure_fedhelp.identity.signing import HYBRID, SigningKey, domain_separated, verify

KEY = SigningKey.generate()


def test_golden_signature_of_the_first_rfc_8032_key() -> None:
    """The secret key of RFC 8032, 7.1, test 1; the public half is the RFC's, the signature fixes our byte layout."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey.from_private_bytes(secret + bytes(32))
    assert key.public_hex == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = key.sign("transcript-entry", b"message")
    assert (
        ed25519.Ed25519PrivateKey.from_private_bytes(secret).sign(b"secure-fedhelp/v1/transcript-entry\x00message")
        == signature
    )
    assert hashlib.sha256(signature).hexdigest() == "08634a86e485529d3559a1e62b817093973b59372176d1bb007dcb15f19b71ee"


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_another_message_is_refused(message: bytes, other: bytes) -> None:
    signature = KEY.sign("test", message)
    verify(KEY.public_hex, "test", message, signature)
    if other != message:
        with pytest.raises(BadSignature):
            verify(KEY.public_hex, "test", other, signature)


def test_a_signature_is_worth_nothing_for_another_purpose() -> None:
    signature = KEY.sign("upload-header", b"x")
    with pytest.raises(BadSignature):
        verify(KEY.public_hex, "key-confirmation", b"x", signature)


@given(
    st.tuples(st.text("az09/-", min_size=1, max_size=8), st.binary(max_size=8)),
    st.tuples(st.text("az09/-", min_size=1, max_size=8), st.binary(max_size=8)),
)
def test_two_purposes_never_share_bytes(one: tuple[str, bytes], two: tuple[str, bytes]) -> None:
    assert (domain_separated(*one) == domain_separated(*two)) == (one == two)


@pytest.mark.parametrize("context", ["", "a\0b", "Header", "kopfzeile-ä", "a b", "a\n"])
def test_a_context_that_could_be_ambiguous_is_refused(context: str) -> None:
    with pytest.raises(ValueError, match="context"):
        KEY.sign(context, b"")
    with pytest.raises(BadSignature):
        verify(KEY.public_hex, context, b"", bytes(64))


@given(st.integers(0, 511))
def test_every_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    broken = bytearray(KEY.sign("test", b"m"))
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadSignature):
        verify(KEY.public_hex, "test", b"m", bytes(broken))


@given(st.text(max_size=70) | st.binary(min_size=32, max_size=32).map(bytes.hex), st.binary(max_size=70))
def test_malformed_keys_and_signatures_are_bad_signatures(public: str, signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(public, "test", b"m", signature)


def test_a_key_has_one_spelling() -> None:
    signature = KEY.sign("test", b"m")
    with pytest.raises(BadSignature):
        verify(KEY.public_hex.upper(), "test", b"m", signature)


# --- keys under which one signature would hold for every message -----------------------------------------------------

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def added(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    """Addition on the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, 5.1.4), affine."""
    (x1, y1), (x2, y2) = one, two
    t = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def x_of(y: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def test_the_list_of_small_order_points_is_complete() -> None:
    """Eight times a listed point is the neutral element, and with their negatives they are the eight there are."""
    points = set()
    for y in signing._SMALL_ORDER:
        x = x_of(y)
        assert x is not None
        for point in ((x, y), (-x % P, y)):
            doubled = point
            for _ in range(3):
                doubled = added(doubled, doubled)
            assert doubled == (0, 1)
            points.add(point)
    assert len(points) == 8  # the cofactor of the curve: the whole torsion subgroup


def test_openssl_alone_would_accept_one_signature_for_every_message_under_a_weak_key() -> None:
    """Why the list is there: key and R the neutral element, S zero. Without the list this holds for any message."""
    weak = (1).to_bytes(32, "little")
    ed25519.Ed25519PublicKey.from_public_bytes(weak).verify(weak + bytes(32), b"any message")
    with pytest.raises(BadSignature):
        verify(weak.hex(), "test", b"any message", weak + bytes(32))


@pytest.mark.parametrize("y", [*sorted(signing._SMALL_ORDER), P, P + 1, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_weak_and_doubly_spelled_keys_are_refused(y: int, sign: int) -> None:
    with pytest.raises(ValueError, match="small order"):
        signing._strict_public_key((y | sign << 255).to_bytes(32, "little").hex())


# --- the key's file --------------------------------------------------------------------------------------------------


def test_a_key_comes_back_from_its_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    KEY.save(path, UNLOCK)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path, UNLOCK).public_hex == KEY.public_hex


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622, 0o601])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing.key"
    KEY.save(path, UNLOCK)
    path.chmod(mode)
    with pytest.raises(UnsafePermissions, match="signing.key") as caught:
        SigningKey.load(path, UNLOCK)
    assert "chmod 600" in caught.value.hint


def test_a_missing_key_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        SigningKey.load(tmp_path / "signing.key", UNLOCK)
    assert "hospital init" in caught.value.hint


def test_a_file_that_holds_no_signing_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    for content in (b"", b"nonsense", bytes(63), bytes(65)):
        write_key(path, content, UNLOCK)
        with pytest.raises(IdentityError, match="64 bytes"):
            SigningKey.load(path, UNLOCK)


def test_a_folder_in_the_place_of_a_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "signing.key").mkdir(mode=0o700)
    with pytest.raises(StorageError):
        SigningKey.load(tmp_path / "signing.key", UNLOCK)


def test_a_key_never_prints_itself_and_is_never_pickled() -> None:
    secret = KEY.to_private_bytes()
    for key in (KEY, KEY.of(HYBRID)):
        shown = repr(key) + str(key) + f"{key}"
        assert KEY.public_hex in shown
        assert not any(secret[i : i + 8].hex() in shown for i in range(len(secret) - 8))
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(key)
