"""A running process notices a new revocation list. While the list is broken, old or gone, the last good one is in
force: it lets in nobody whom that one revokes, and turns nobody away because of a file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from consortia import DAY, NOW, Consortium
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedhelp.errors import CannotJudgeNow, RevocationsUnreadable, StorageError, WrongAuthority
from secure_fedhelp.identity import pem, revocation
from secure_fedhelp.identity.revocation import KEPT_FILE, RevocationList, read_revocations
from secure_fedhelp.study.reading import REVOCATIONS


@pytest.fixture
def north(tmp_path: Path) -> Consortium:
    return Consortium.create(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "member").mkdir()
    return tmp_path / "member" / "revoked.crl"


def serial_of(certificate: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate).serial_number


def listed(path: Path, north: Consortium, told: list[str] | None = None) -> RevocationList:
    return RevocationList(path.parent, north.ca_pem, (told if told is not None else []).append)


def other_list(root: Path) -> bytes:
    """Of another authority with the same name."""
    return Consortium.create(root / "elsewhere").crl


#: Each way in which a file can say nothing of anybody, as a change to the file of a good list.
BROKEN: dict[str, Callable[[Path, bytes, Path], object]] = {
    "empty": lambda path, crl, root: path.write_bytes(b""),
    "half": lambda path, crl, root: path.write_bytes(crl[: len(crl) // 2]),
    "without its last byte but the line's end": lambda path, crl, root: path.write_bytes(crl[:-2]),
    "of other bytes": lambda path, crl, root: path.write_bytes(os.urandom(len(crl))),
    "with one bit turned": lambda path, crl, root: path.write_bytes(turned(crl)),
    "of an authority of the same name": lambda path, crl, root: path.write_bytes(other_list(root)),
    "gone": lambda path, crl, root: path.unlink(),
    "a folder": lambda path, crl, root: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, crl, root: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path, crl, root: (path.unlink(), path.symlink_to("nowhere")),
    "a certificate": lambda path, crl, root: path.write_bytes(Consortium.create(root / "third").ca_pem),
    "far too large": lambda path, crl, root: os.truncate(path, REVOCATIONS.largest + 1),
}


def turned(crl: bytes) -> bytes:
    der = bytearray(x509.load_pem_x509_crl(crl).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_crl(bytes(der)).public_bytes(serialization.Encoding.PEM)


def restore(path: Path, content: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    elif path.is_symlink() or path.exists():
        path.unlink()
    path.write_bytes(content)


def test_a_new_list_is_noticed_without_a_restart(north: Consortium, path: Path) -> None:
    alpha, beta = serial_of(north.certificate("alpha")), serial_of(north.certificate("beta"))
    path.write_bytes(north.crl)
    revoked = listed(path, north)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    assert not revoked.contains(alpha, NOW)  # the consortium's own copy is not the member's
    path.write_bytes(north.crl)
    assert revoked.contains(alpha, NOW)
    assert not revoked.contains(beta, NOW)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_list_pardons_nobody_and_turns_nobody_away(
    tmp_path: Path, north: Consortium, path: Path, how: str
) -> None:
    alpha, beta = serial_of(north.certificate("alpha")), serial_of(north.certificate("beta"))
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    assert revoked.contains(alpha, NOW)
    BROKEN[how](path, north.crl, tmp_path)
    for _ in range(3):  # the failure is not remembered as a success either
        assert revoked.contains(alpha, NOW)
        assert not revoked.contains(beta, NOW)
    assert len(told) == 1
    assert "list 1 stays in force" in told[0]
    assert "Copy revoked.crl" in told[0]
    north.authority.revoke("beta", NOW)
    restore(path, north.crl)
    assert revoked.contains(beta, NOW)
    assert len(told) == 2
    assert "list 2 is read whole" in told[1]


@pytest.mark.parametrize("how", BROKEN)
def test_a_restart_knows_the_last_good_list(tmp_path: Path, north: Consortium, path: Path, how: str) -> None:
    alpha, beta = serial_of(north.certificate("alpha")), serial_of(north.certificate("beta"))
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    assert listed(path, north).contains(alpha, NOW)
    BROKEN[how](path, north.crl, tmp_path)
    told: list[str] = []
    again = listed(path, north, told)
    again.start(NOW, pytest.fail)
    assert again.contains(alpha, NOW)
    assert not again.contains(beta, NOW)
    assert len(told) == 1


@pytest.mark.parametrize("how", [how for how in BROKEN if how not in ("gone", "a link to nothing")])
def test_without_a_good_list_nobody_is_judged_and_nothing_starts(
    tmp_path: Path, north: Consortium, path: Path, how: str
) -> None:
    path.write_bytes(north.crl)
    BROKEN[how](path, north.crl, tmp_path)
    revoked, slept = listed(path, north), list[float]()
    with pytest.raises(CannotJudgeNow):
        revoked.contains(1, NOW)
    with pytest.raises((RevocationsUnreadable, WrongAuthority)):
        revoked.start(NOW, slept.append)
    assert 1 < sum(slept) < 10
    restore(path, north.crl)
    assert not revoked.contains(1, NOW)


def test_a_start_waits_for_a_copy_that_is_under_way(north: Consortium, path: Path) -> None:
    path.write_bytes(north.crl[:100])
    waits = iter([lambda: path.write_bytes(north.crl[:300]), lambda: path.write_bytes(north.crl)])
    revoked = listed(path, north)
    revoked.start(NOW, lambda _: next(waits)())
    assert revoked.in_force == north.crl


@pytest.fixture(scope="module")
def four_lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Consortium, list[int], list[bytes]]:
    """An authority, three serial numbers, and its lists with none to all of them."""
    north = Consortium.create(tmp_path_factory.mktemp("four"))
    serials = [serial_of(north.certificate(name)) for name in "abc"]
    lists = [north.crl]
    for name in "abc":
        north.authority.revoke(name, NOW)
        lists.append(north.crl)
    return north, serials, lists


_STEPS = st.tuples(st.sampled_from(["good", "cut", "gone", "restart"]), st.integers(0, 3), st.floats(0, 0.98))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(_STEPS, min_size=1, max_size=12))
def test_whatever_happens_to_the_file_no_revocation_is_ever_taken_back(
    four_lists: tuple[Consortium, list[int], list[bytes]], steps: list[tuple[str, int, float]]
) -> None:
    """Files of any age and kind in any order, and restarts: who was revoked by a list that was in force stays so."""
    north, serials, lists = four_lists
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "revoked.crl"
        revoked, best, seen = listed(path, north), -1, False
        for what, number, share in steps:
            match what:
                case "good":
                    path.write_bytes(lists[number])
                    best, seen = max(best, number), True
                case "cut":
                    path.write_bytes(lists[number][: int(share * len(lists[number]))])
                    seen = True
                case "gone":
                    path.unlink(missing_ok=True)
                case _:
                    revoked, seen = listed(path, north), path.exists()
            try:
                found = [revoked.contains(serial, NOW) for serial in serials]
            except CannotJudgeNow:
                assert best < 0
                assert seen
            else:
                assert found == [index < best for index in range(3)]


def test_no_file_left_to_open_changes_nothing(north: Consortium, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at an unchanged list opens nothing; a changed one is read when it can be."""
    alpha = serial_of(north.certificate("alpha"))
    path.write_bytes(north.crl)
    os.utime(path, ns=(0, 0))
    told: list[str] = []
    revoked = listed(path, north, told)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)

    def full(*_: object) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(revocation, "read_bounded", full)
        assert not revoked.contains(alpha, NOW)
        assert "Too many open files" in told[0]
    assert revoked.contains(alpha, NOW)


def test_an_unchanged_list_is_not_read_again(north: Consortium, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(north.crl)
    revoked = listed(path, north)
    monkeypatch.setattr(revocation, "_CLOCK_STEP_NS", -1)
    revoked.contains(1, NOW)
    monkeypatch.setattr(revocation, "read_bounded", pytest.fail)
    revoked.contains(1, NOW)


def test_a_list_with_the_size_and_time_of_the_last_one_is_noticed(north: Consortium, path: Path) -> None:
    """``cp -p`` and a rename keep them."""
    north.certificate("alpha")
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    revoked.contains(1, NOW)
    state = path.stat()
    path.write_bytes(b"x" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    revoked.contains(1, NOW)
    assert len(told) == 1
    path.write_bytes(north.crl)
    revoked.contains(1, NOW)
    beside = path.with_name("new")
    beside.write_bytes(b"x" * state.st_size)
    os.utime(beside, ns=(state.st_atime_ns, state.st_mtime_ns))
    beside.replace(path)
    revoked.contains(1, NOW + 100)
    assert len(told) == 3


def test_without_a_file_nothing_was_revoked_yet(north: Consortium, path: Path) -> None:
    alpha = serial_of(north.certificate("alpha"))
    revoked = listed(path, north)
    revoked.start(NOW, pytest.fail)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    assert revoked.contains(alpha, NOW)


def link_to_what_is_not_there(folder: Path) -> None:
    """As a mounted folder has it before its content is there, or after it was taken away."""
    (folder / "revoked.crl").symlink_to("..data/revoked.crl")


def kept_list_is_damaged(folder: Path) -> None:
    (folder / KEPT_FILE).write_bytes(b"-----BEGIN X509 CRL-----")


def kept_list_is_a_folder(folder: Path) -> None:
    (folder / KEPT_FILE).mkdir()


@pytest.mark.parametrize("trace", [link_to_what_is_not_there, kept_list_is_damaged, kept_list_is_a_folder])
def test_a_trace_of_a_list_is_never_taken_for_no_list_at_all(
    north: Consortium, path: Path, trace: Callable[[Path], None]
) -> None:
    alpha = serial_of(north.certificate("alpha"))
    trace(path.parent)
    revoked = listed(path, north)
    with pytest.raises(RevocationsUnreadable, match="gone"):
        revoked.start(NOW, lambda _: None)
    with pytest.raises(RevocationsUnreadable, match="no revocation list to judge by"):
        revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    path.unlink(missing_ok=True)
    path.write_bytes(north.crl)
    assert revoked.contains(alpha, NOW)


def test_links_that_are_turned_over_to_a_new_folder_are_noticed(north: Consortium, path: Path) -> None:
    """As a mounted folder is renewed: the file's own link never changes, the one on its way is renamed."""
    alpha = serial_of(north.certificate("alpha"))
    for version in ("..1", "..2"):
        (path.parent / version).mkdir()
        (path.parent / version / "revoked.crl").write_bytes(north.crl)
        north.authority.revoke("alpha", NOW)
    (path.parent / "..data").symlink_to("..1")
    path.symlink_to("..data/revoked.crl")
    revoked = listed(path, north)
    assert not revoked.contains(alpha, NOW)
    (path.parent / "..new").symlink_to("..2")
    (path.parent / "..new").replace(path.parent / "..data")
    assert revoked.contains(alpha, NOW)


def test_a_list_that_could_not_be_kept_is_kept_once_the_disk_has_room(
    north: Consortium, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = serial_of(north.certificate("alpha"))
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    assert not revoked.contains(alpha, NOW)
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)

    def full(*_: object) -> None:
        raise StorageError("cannot write: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(revocation, "write_atomic", full)
        for minute in range(5):
            assert revoked.contains(alpha, NOW + 60 * minute)
    assert len(told) == 1
    assert revoked.contains(alpha, NOW + 600)
    path.write_bytes(b"")
    assert listed(path, north).contains(alpha, NOW + 600)


def test_a_list_that_has_forgotten_somebody_pardons_nobody(tmp_path: Path, north: Consortium, path: Path) -> None:
    """The authority's folder was put back from a copy of before a revocation, and has revoked somebody else since: by
    number and date its list is as new as ours, or newer."""
    alpha, beta, gamma = (serial_of(north.certificate(name)) for name in ("alpha", "beta", "gamma"))
    index = north.authority.folder / "issued.jsonl"
    before = index.read_bytes()
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    assert revoked.contains(alpha, NOW)
    index.write_bytes(before)
    for name, at in (("beta", NOW + 60), ("gamma", NOW + 120)):
        north.authority.revoke(name, at)
        path.write_bytes(north.crl)
        assert revoked.contains(alpha, NOW)
        assert listed(path, north).contains(alpha, NOW)
    assert "lacks 1 certificate(s) of list 1" in told[0]
    assert "revoke there again" in told[0]
    north.authority.revoke("alpha", NOW + 180)
    path.write_bytes(north.crl)
    assert all(revoked.contains(serial, NOW) for serial in (alpha, beta, gamma))


def test_another_trouble_than_the_last_one_is_told_too(north: Consortium, path: Path) -> None:
    old = north.crl
    north.certificate("alpha")
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    revoked.contains(1, NOW)
    path.write_bytes(old[:50])
    revoked.contains(1, NOW)
    path.write_bytes(old)
    revoked.contains(1, NOW + 1)
    revoked.contains(1, NOW + 61)
    assert ["list 0 took the place of list 1" in line for line in told] == [False, True]


@pytest.mark.parametrize("restarted", [False, True])
def test_an_older_list_put_back_pardons_nobody_and_is_told(north: Consortium, path: Path, restarted: bool) -> None:
    alpha = serial_of(north.certificate("alpha"))
    old = north.crl
    north.authority.revoke("alpha", NOW)
    path.write_bytes(north.crl)
    told: list[str] = []
    revoked = listed(path, north, told)
    assert revoked.contains(alpha, NOW)
    path.write_bytes(old)
    if restarted:
        revoked = listed(path, north, told)
    assert revoked.contains(alpha, NOW)
    assert "list 0 took the place of list 1" in told[-1]


def test_of_two_lists_with_one_number_the_later_one_counts(north: Consortium, path: Path) -> None:
    def made(at: float, serials: list[int]) -> bytes:
        ca = x509.load_pem_x509_certificate(north.ca_pem)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(ca.subject)
            .last_update(pem.utc(at))
            .next_update(pem.utc(NOW + DAY))
            .add_extension(x509.CRLNumber(7), critical=False)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(pem.utc(at)).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(north.authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    path.write_bytes(made(NOW, [5]))
    revoked = listed(path, north)
    assert revoked.contains(5, NOW)
    path.write_bytes(made(NOW - 60, []))
    assert revoked.contains(5, NOW)
    path.write_bytes(made(NOW + 60, [5, 6]))
    assert revoked.contains(6, NOW)


def test_a_list_that_comes_and_goes_is_told_once_a_minute(north: Consortium, path: Path) -> None:
    told: list[str] = []
    path.write_bytes(north.crl)
    revoked = listed(path, north, told)
    revoked.contains(1, NOW)
    for tenth in range(1200):
        path.write_bytes(b"" if tenth % 3 == 0 else north.crl)
        revoked.contains(1, NOW + tenth / 10)
    assert len(told) == 4


def test_a_kept_list_of_before_the_authority_was_renewed_is_no_trouble(
    tmp_path: Path, north: Consortium, path: Path
) -> None:
    path.with_name(KEPT_FILE).write_bytes(other_list(tmp_path))
    path.write_bytes(north.crl)
    told: list[str] = []
    assert not listed(path, north, told).contains(1, NOW)
    assert told == []
    assert path.with_name(KEPT_FILE).read_bytes() == north.crl


def test_a_kept_list_that_is_damaged_is_told(north: Consortium, path: Path) -> None:
    path.with_name(KEPT_FILE).write_bytes(north.crl[:50])
    path.write_bytes(north.crl)
    told: list[str] = []
    assert not listed(path, north, told).contains(1, NOW)
    assert "an older revocation list would not be noticed" in told[0]


def test_a_list_beyond_its_date_lets_nobody_in(tmp_path: Path, path: Path) -> None:
    """Whose list it is has a trouble of its own: the others wait, and are not told that they are refused."""
    short = Consortium.create(tmp_path, days=10)
    path.write_bytes(short.crl)
    revoked = listed(path, short)
    assert not revoked.contains(1, NOW + 10 * DAY)
    with pytest.raises(RevocationsUnreadable, match="ran out"):
        revoked.contains(1, NOW + 10 * DAY + 1)


def test_a_list_from_a_clock_that_is_ahead_still_revokes(north: Consortium, path: Path) -> None:
    alpha = serial_of(north.certificate("alpha"))
    north.authority.revoke("alpha", NOW + 60)
    path.write_bytes(north.crl)
    assert listed(path, north).contains(alpha, NOW)


def test_a_list_without_a_number_is_refused(north: Consortium) -> None:
    """Without its number an old list could not be told from a new one."""
    ca = x509.load_pem_x509_certificate(north.ca_pem)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(pem.utc(NOW))
        .next_update(pem.utc(NOW + DAY))
        .sign(north.authority._key, hashes.SHA256())
    )
    with pytest.raises(RevocationsUnreadable, match="malformed"):
        read_revocations(crl.public_bytes(serialization.Encoding.PEM), ca)


@pytest.mark.parametrize("name", ["north", "south"])
def test_another_authoritys_list_is_refused(tmp_path: Path, north: Consortium, path: Path, name: str) -> None:
    path.write_bytes(Consortium.create(tmp_path / "other", name).crl)
    with pytest.raises(WrongAuthority, match="not signed"):
        listed(path, north).start(NOW, lambda _: None)
