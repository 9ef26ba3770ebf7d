"""SEAL's saved forms: taken only when every constant is the pinned version's; secrets stay in memory files."""

from __future__ import annotations

import gc
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as sealapi
import zstandard

from secure_fedhelp.errors import StorageError, VersionMismatch
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey, seal_context
from secure_fedhelp.secagg.layout import MemoryFile, SavedForm, ciphertext_form, plaintext_form
from secure_fedhelp.secagg.profiles import PROFILES, Profile


def saved(content: bytes, *, compression: int = 2, version: tuple[int, int] = (4, 3)) -> bytes:
    """A SEAL file with this content, written without the code under test."""
    packed = zstandard.ZstdCompressor().compress(content)
    return struct.pack("<HBBBBHQ", 0xA15E, 16, *version, compression, 0, 16 + len(packed)) + packed


@pytest.fixture
def form(standard: Profile) -> SavedForm:
    return ciphertext_form(1, 2048, seal_context(standard).first_parms_id(), 2.0**40)


@pytest.fixture
def content(form: SavedForm) -> bytearray:
    form.residues[:] = np.arange(2 * 2048).reshape(2, 1, 2048)
    return form.buffer[16:]


def test_form_is_read_back_as_written(form: SavedForm, content: bytearray) -> None:
    assert (form.read(saved(bytes(content))) == np.arange(2 * 2048).reshape(2, 1, 2048)).all()


def test_every_changed_constant_is_refused(form: SavedForm, content: bytearray) -> None:
    constants = len(content) - 8 * 2 * 2048
    assert constants == 97
    for place in range(constants):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(VersionMismatch, match="fields differ"):
            form.read(saved(bytes(changed)))


def test_other_header_or_length_is_refused(form: SavedForm, content: bytearray) -> None:
    for wrong in (saved(bytes(content), version=(4, 1)), saved(bytes(content), compression=1), b""):
        with pytest.raises(VersionMismatch, match="another form"):
            form.read(wrong)
    for wrong in (bytes(content[:-1]), b"short"):
        with pytest.raises(VersionMismatch, match=f"{len(wrong)} bytes"):
            form.read(saved(wrong))


def test_library_reads_our_form_as_the_same_ciphertext(standard: Profile, form: SavedForm, content: bytearray) -> None:
    ciphertext, context = sealapi.Ciphertext(), seal_context(standard)
    MemoryFile().load(ciphertext, context, form)
    assert [ciphertext.dyn_array().at(i) for i in (0, 1, 2047, 4095)] == [0, 1, 2047, 4095]
    assert ciphertext.size() == 2
    assert ciphertext.is_ntt_form()
    assert ciphertext.scale == 2.0**40
    assert sealapi.is_valid_for(ciphertext, context)


def test_memory_file_is_no_file_on_a_disk() -> None:
    memory = MemoryFile()
    assert str(Path(memory._path).readlink()).startswith("/memfd:")
    assert Path(memory._path).stat().st_nlink == 0


@pytest.mark.parametrize("p", PROFILES.values(), ids=lambda p: p.name)
def test_residues_of_several_primes_are_where_the_library_has_them(p: Profile) -> None:
    context, size = seal_context(p), len(p.moduli) * p.ring_degree
    form = ciphertext_form(len(p.moduli), p.ring_degree, context.first_parms_id(), 2.0**p.scale_bits)
    form.residues[:] = np.arange(2 * size).reshape(form.residues.shape)
    ciphertext = sealapi.Ciphertext()
    MemoryFile().load(ciphertext, context, form)
    assert ciphertext.coeff_modulus_size() == len(p.moduli)
    assert [ciphertext.dyn_array().at(i) for i in (0, size - 1, size, 2 * size - 1)] == [
        0,
        size - 1,
        size,
        2 * size - 1,
    ]
    assert (form.read(MemoryFile().save(ciphertext)) == form.residues).all()


def test_memory_file_shrinks_to_what_was_written_last(standard: Profile, form: SavedForm) -> None:
    memory, context = MemoryFile(), seal_context(standard)
    form.residues[:] = 1
    memory.load(sealapi.Ciphertext(), context, form)
    assert Path(memory._path).stat().st_size == len(form.buffer)
    plaintext = plaintext_form(1, 2048, context.first_parms_id(), 2.0**40)
    memory.load(sealapi.Plaintext(), context, plaintext)
    assert Path(memory._path).stat().st_size == len(plaintext.buffer) < len(form.buffer)


def test_memory_files_are_closed_with_their_owners(standard: Profile, keys: dict[str, StudyKey]) -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        Cipher(standard, keys["standard"])
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_system_without_memory_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(StorageError, match="memory files"):
        MemoryFile()
