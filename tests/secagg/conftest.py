"""One study key and one cipher for each profile, made once: neither is changed by use."""

from __future__ import annotations

import pytest

from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.profiles import PROFILES, Profile


@pytest.fixture(scope="session")
def keys() -> dict[str, StudyKey]:
    return {name: StudyKey.generate(profile) for name, profile in PROFILES.items()}


@pytest.fixture(scope="session")
def ciphers(keys: dict[str, StudyKey]) -> dict[str, Cipher]:
    return {name: Cipher(PROFILES[name], key) for name, key in keys.items()}


@pytest.fixture
def standard() -> Profile:
    return PROFILES["standard"]
