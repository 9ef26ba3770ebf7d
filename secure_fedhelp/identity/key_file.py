"""Key files: 32 random bytes as 64 hexadecimal digits and a line feed, for a folder that opens without a person.

A key file must not lie in the folder it opens: whoever copies the folder would have both.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration, UnlockSecretMissing
from secure_fedhelp.identity.private_files import create_private, read_private
from secure_fedhelp.identity.unlock import KEY_BYTES, Secret

_FORM = re.compile(rb"[0-9a-f]{64}\n?")


def make_key_file(path: Path) -> Secret:
    """A new key file with mode 0600; StorageError if ``path`` exists: a key file in use is never replaced."""
    value = secrets.token_bytes(KEY_BYTES)
    create_private(path, value.hex().encode() + b"\n")
    return Secret("key-file", value)


def read_key_file(path: Path) -> Secret:
    """The secret in a key file.

    Raises UnlockSecretMissing if there is none, UnsafePermissions if it is not ours alone, InvalidConfiguration if it
    holds something else.
    """
    try:
        content = read_private(path)
    except InvalidConfiguration as error:
        raise UnlockSecretMissing(f"the key file {path} is missing") from error
    if not _FORM.fullmatch(content):
        raise InvalidConfiguration(
            f"{path} is not a key file (64 hexadecimal digits)",
            "Name another --key-file; 'init' makes it. If no folder was ever sealed with this one, delete it.",
        )
    return Secret("key-file", bytes.fromhex(content.decode("ascii")))
