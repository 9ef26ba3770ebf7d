"""What a document prints: its fenced blocks, so that tests run what readers copy."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(document: Path, language: str) -> list[str]:
    """The document's blocks of one language, in order, without their fences."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
