"""What the command says and how it exits: alarms, missed mistakes, bad input, and a file that can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from canary_plans import canary_plan_values
from rich.console import Console
from typer.testing import CliRunner, Result

from secure_fedhelp.audit.canary import suite
from secure_fedhelp.audit.canary.planted import noise_halved
from secure_fedhelp.audit.canary.results import CanaryResult, read_results, results_json
from secure_fedhelp.audit.canary.suite import Size
from secure_fedhelp.audit.canary.tally import Scale
from secure_fedhelp.cli import audit_canary
from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import FedHelpError, InvalidConfiguration, StorageError
from secure_fedhelp.privacy import noise
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.training import train_private

SIZE = Size(white_box=Scale(6, 300, 60), black_box=Scale(2, 100, 20), games=24)


@pytest.fixture(autouse=True)
def _small_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command plays little, and from a seed, so that a test does not depend on luck."""
    monkeypatch.setattr(suite, "size_of", lambda effort, canaries: SIZE)
    monkeypatch.setattr(noise, "SystemNoise", lambda: SeededNoise(b"the command"))
    monkeypatch.setenv("COLUMNS", "80")


def audit(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", "canary", *map(str, arguments)])


@pytest.fixture(scope="module")
def first() -> Iterator[tuple[Result, list[CanaryResult], Path]]:
    """One run with a self-test, and the file that it wrote."""
    import tempfile

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(suite, "size_of", lambda effort, canaries: SIZE)
        patch.setattr(noise, "SystemNoise", lambda: SeededNoise(b"the command"))
        patch.setenv("COLUMNS", "80")
        path = Path(folder) / "canary.json"
        result = audit("--epsilon", 2, "--self-test", "--json", path)
        yield result, read_results(path), path


def test_a_sound_run_says_what_it_found_and_exits_with_0(first: tuple[Result, list[CanaryResult], Path]) -> None:
    result, results, _ = first
    assert result.exit_code == 0, result.output
    assert "The claim stands in all 3 audits." in result.output
    assert "All 5 planted mistakes were caught." in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    words = " ".join(result.output.split())
    assert "at most 5% raise a false alarm" in words
    assert "does not prove the claim" in words
    for one in results:
        assert f"{one.correct}/{one.guesses}" in words
    for kind in ("white-box", "black-box", "game"):
        assert kind in words


def test_the_file_holds_what_was_printed(first: tuple[Result, list[CanaryResult], Path]) -> None:
    _, results, path = first
    assert [r.planted for r in results][:3] == [None] * 3
    assert len({r.planted for r in results}) == 6
    assert path.read_bytes() == results_json(results)
    assert set(results[0].versions) >= {"secure-fedhelp", "torch", "opacus", "dp-accounting", "python"}
    assert all(r.as_expected and r.statement for r in results)


def test_a_refuted_claim_is_an_alarm_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "train_private", noise_halved)
    result = audit("--epsilon", 2)
    assert result.exit_code == 1
    assert "REFUTED" in result.output
    assert "Claims refuted: 1 of 3 audits." in result.output


def test_a_mistake_that_is_not_caught_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "noise_halved", train_private)
    result = audit("--epsilon", 2, "--self-test")
    assert result.exit_code == 1
    assert "MISSED" in result.output
    assert "Planted mistakes not caught: 1." in result.output


def test_a_plan_is_audited_by_its_own_figures(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.toml", tmp_path / "deep" / "canary.json"
    plan.write_text(tomli_w.dumps(canary_plan_values()), encoding="utf-8")
    result = audit("--plan", plan, "--tier", "large", "--json", out)
    assert result.exit_code == 0, result.output
    assert "one training round of the plan's tier large" in " ".join(result.output.split())
    results = read_results(out)
    assert {(r.tier, r.event.noise_multiplier, r.delta) for r in results} == {("large", 1.5, 1e-4)}


def _never(*_: Any) -> None:
    raise AssertionError("trained")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "plan.toml", "--epsilon", 1], "--plan and --epsilon"),
        (["--plan", "nowhere.toml"], "no such file"),
        (["--epsilon", 0], "epsilon 0"),
        (["--epsilon", -1], "epsilon -1"),
        (["--epsilon", "nan"], "epsilon nan"),
        (["--delta", 0], "delta 0"),
        (["--delta", 2], "delta 2"),
        (["--epsilon", 2, "--confidence", 1], "confidence of 1"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(
    arguments: list[object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "train_private", _never)
    result = audit(*arguments)
    assert isinstance(result.exception, FedHelpError), result.output
    assert message in result.exception.message


def test_a_claim_that_says_nothing_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "train_private", _never)
    values = canary_plan_values()
    for tier in values["privacy"]:
        values["privacy"][tier] = values["privacy"][tier] | {"noise_multiplier": 0.1, "steps": 20}
    plan = tmp_path / "plan.toml"
    plan.write_text(tomli_w.dumps(values), encoding="utf-8")
    result = audit("--plan", plan)
    assert isinstance(result.exception, InvalidConfiguration)
    assert "claims nothing" in result.exception.message


def test_a_claim_of_epsilon_zero_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At so large a delta halved noise would still be an epsilon of 0, and a refuted claim would seem to stand."""
    monkeypatch.setattr(suite, "train_private", _never)
    plan = tmp_path / "plan.toml"
    plan.write_text(tomli_w.dumps(canary_plan_values()), encoding="utf-8")
    result = audit("--plan", plan, "--delta", 0.9)
    assert isinstance(result.exception, InvalidConfiguration)
    assert "claimed epsilon is 0" in result.exception.message


def test_a_great_confidence_is_not_rounded_to_certainty(
    first: tuple[Result, list[CanaryResult], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    real = [r.model_copy(update={"confidence": 0.9999, "joint_confidence": 0.9995}) for r in first[1]]
    audit_canary._print(Console(width=200), real)
    said = " ".join(capsys.readouterr().out.split())
    assert "with probability 99.95%" in said
    assert "at most 0.05% raise a false alarm" in said


def test_a_place_that_cannot_be_written_is_named_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = audit("--json", tmp_path / "file" / "canary.json")
    assert isinstance(result.exception, StorageError)


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"surprise": 1}, "surprise"),
        ({"kind": "grey-box"}, "kind"),
        ({"planted": "something-else"}, "planted"),
        ({"holds": False}, "'holds'"),
        ({"lower_bound": 99.0}, "'holds'"),
        ({"correct": 10**9}, "more right than guessed"),
        ({"confidence": 0.5}, "less certain"),
        ({"claimed_epsilon": float("nan")}, "claimed_epsilon"),
    ],
)
def test_a_changed_file_is_refused(
    first: tuple[Result, list[CanaryResult], Path], tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    lines = json.loads(results_json(first[1]))
    lines[0] |= change
    path = tmp_path / "canary.json"
    path.write_text(json.dumps(lines), encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=place):
        read_results(path)


def test_a_file_that_is_missing_or_torn_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot read"):
        read_results(tmp_path / "nowhere.json")
    (tmp_path / "torn.json").write_text('[{"format": 1', encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=r"torn\.json"):
        read_results(tmp_path / "torn.json")
