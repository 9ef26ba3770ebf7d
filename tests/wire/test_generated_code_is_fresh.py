"""The checked-in messages are those of the proto files."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_fedhelp.wire import generate


def test_checked_in_code_is_what_the_protos_give() -> None:
    assert generate.main(["--check"]) == 0


def test_a_stale_file_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "_INIT", "# another\n")
    assert generate.main(["--check"]) == 1
    assert "__init__.py" in capsys.readouterr().err


def test_generating_writes_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_ROOT", tmp_path)
    assert generate.main([]) == 0
    assert generate.stale_files() == []


def test_protos_that_do_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.proto").write_text("message", encoding="utf-8")
    monkeypatch.setattr(generate, "_PROTOS", tmp_path)
    with pytest.raises(RuntimeError):
        generate.generate(tmp_path)


def test_another_argument_is_refused() -> None:
    assert generate.main(["--what"]) == 2
