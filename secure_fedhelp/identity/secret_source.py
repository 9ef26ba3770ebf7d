"""Where an unlock secret comes from: a key file, a passphrase file, the environment, or a person at a terminal.

Nothing here waits for an answer that cannot come: without a terminal a missing passphrase is an error by name.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secure_fedhelp.errors import InvalidConfiguration, UnlockSecretMissing
from secure_fedhelp.identity.key_file import make_key_file, read_key_file
from secure_fedhelp.identity.private_files import read_private
from secure_fedhelp.identity.unlock import SHORTEST_PASSPHRASE, Kind, Secret

#: The environment variable that may hold the passphrase. Other processes of the same user can read it there: a
#: passphrase file or a key file says less.
VARIABLE: Final = "SECURE_FEDHELP_PASSPHRASE"


def _ask(question: str) -> str | None:
    """What a person types without echo; None if there is no terminal. (``getpass`` alone would look for one itself.)"""
    return getpass.getpass(f"{question}: ") if sys.stdin is not None and sys.stdin.isatty() else None


@dataclass(frozen=True)
class SecretSource:
    """What the command line said of the unlock secret; by default a key file, where the folder's lock says it is."""

    #: The key file: made for a new folder, or in place of the one that the folder's lock names.
    key_file: Path | None = None
    #: A new folder gets a passphrase instead of a key file.
    passphrase: bool = False
    passphrase_file: Path | None = None
    variable: str = VARIABLE
    ask: Callable[[str], str | None] = _ask

    def new(self, folder: Path) -> tuple[Secret, str | None]:
        """The secret for a folder that has none yet, and where its lock shall look for the key file (made if missing).

        Raises InvalidConfiguration for two kinds at once, a key file inside the folder, or a short passphrase.
        """
        if self.passphrase or self.passphrase_file is not None:
            if self.key_file is not None:
                raise InvalidConfiguration("both a key file and a passphrase", "Choose one of the two.")
            return self._new_passphrase(folder), None
        path = self.key_file or default_key_file(folder)
        if path.resolve().is_relative_to(folder.resolve()):
            raise InvalidConfiguration(
                f"the key file {path} would lie in the folder that it opens",
                "Choose a --key-file elsewhere: whoever copies the folder must not get its key with it.",
            )
        # A place given in full stays as it is; any other is told from the folder, so that both may be moved together.
        told = path if self.key_file and path.is_absolute() else os.path.relpath(path.resolve(), folder.resolve())
        try:
            return read_key_file(path), str(told)
        except UnlockSecretMissing:
            return make_key_file(path), str(told)

    def present(self, kind: Kind, key_file: str | None, folder: Path) -> Secret:
        """The secret of a folder whose lock is of ``kind``; ``key_file`` is the place that the lock names.

        Raises UnlockSecretMissing, InvalidConfiguration if another kind was given than the lock is of, and what
        :func:`read_key_file` raises.
        """
        if kind == "key-file":
            if self.passphrase_file is not None:
                raise InvalidConfiguration(f"{folder} is opened by a key file, not by a passphrase", "Use --key-file.")
            if self.key_file is None and key_file is None:
                raise UnlockSecretMissing(f"the lock of {folder} does not say where its key file is")
            return read_key_file(self.key_file or folder / str(key_file))
        if self.key_file is not None:
            raise InvalidConfiguration(f"{folder} is opened by a passphrase, not by a key file", "Give that instead.")
        return Secret.from_passphrase(self._passphrase(f"Passphrase of {folder}"))

    def _new_passphrase(self, folder: Path) -> Secret:
        given = self._given()
        text = self._passphrase(f"New passphrase of {folder} (at least {SHORTEST_PASSPHRASE} characters)")
        if len(text) < SHORTEST_PASSPHRASE:
            raise InvalidConfiguration(
                f"a passphrase of {len(text)} characters, at least {SHORTEST_PASSPHRASE} are needed",
                "Take five random words: who copies the disk may try as long as they like.",
            )
        if given is None and self.ask("The same again") != text:
            raise InvalidConfiguration("the two passphrases differ", "Run the command again.")
        return Secret.from_passphrase(text)

    def _passphrase(self, question: str) -> str:
        text = self._given()
        if text is None:
            text = self.ask(question)
        if not text:
            raise UnlockSecretMissing("a passphrase is needed, and there is no terminal to ask for it at")
        return text

    def _given(self) -> str | None:
        """The passphrase of the file or the environment, without a line end; None if neither has one."""
        if self.passphrase_file is None:
            return os.environ.get(self.variable)
        try:
            return read_private(self.passphrase_file).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidConfiguration(f"{self.passphrase_file} is not text in UTF-8") from error


#: What a command does that was told nothing.
USUAL: Final = SecretSource()


def default_key_file(folder: Path) -> Path:
    """Beside the folder, never in it: ``st-anna.unlock`` for the folder ``st-anna``."""
    place = folder.resolve()
    return place.with_name(f"{place.name}.unlock")
