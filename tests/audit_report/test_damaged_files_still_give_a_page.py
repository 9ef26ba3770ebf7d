"""Whatever is missing, cut or changed: a page that says so, exit code 1, and never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import forge
from runs import Run
from stories import LATER
from typer.testing import CliRunner

from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport, read_report, to_json
from secure_fedhelp.audit.report.page import render
from secure_fedhelp.audit.report.people import participants
from secure_fedhelp.audit.report.sources import Inputs, read_sources
from secure_fedhelp.audit.verify import Run as Examined
from secure_fedhelp.cli.audit import app
from secure_fedhelp.wire.transcript import SignedRefusal, TranscriptEntry

FILES = {
    "plan.toml": lambda run: run.root / "plan.toml",
    "ca.crt": lambda run: run.root / "ca.crt",
    "roster": lambda run: run.roster,
    "transcript": lambda run: run.transcript,
    "ledger": lambda run: run.ledger("beta"),
    "policy": lambda run: run.root / "hospitals" / "beta" / "policy.toml",
}


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    path.write_bytes(b"\xff\x00{[" * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("damage", [remove, empty, nonsense, cut, folder, loop])
@pytest.mark.parametrize("which", FILES)
def test_a_damaged_file_fails_by_name(which: str, damage: Callable[[Path], None], run: Run) -> None:
    damage(FILES[which](run))
    report = gather(Inputs(run.root), LATER)
    page = render(report)
    harmless = (which, damage) in {("policy", remove), ("policy", folder), ("policy", loop)}
    assert report.holds == harmless, report.failed
    assert ("Checks failed." in page) != harmless
    for _, one in report.failed:
        assert one.detail.partition(":")[0].isidentifier(), one.detail  # a named error


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_changed_bytes_give_a_page(
    told: Run, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("flipped") / "lungs-run"
    shutil.copytree(told.root, root)
    run = Run(root, told.plan, told.scribe, told.consortium)
    path = FILES[data.draw(st.sampled_from(sorted(FILES)))](run)
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    for place, byte in enumerate(data.draw(st.binary(min_size=1, max_size=8))):
        content[min(start + place, len(content) - 1)] = byte
    path.write_bytes(content)
    assert "</html>" in render(gather(Inputs(root), LATER))
    shutil.rmtree(root)


def test_the_page_of_a_damaged_run_says_what_is_not_known(damaged: AuditReport) -> None:
    gamma = next(b for b in damaged.budgets if b.hospital == "gamma")
    assert (gamma.pld, gamma.rdp, gamma.committed, gamma.curve) == (None, None, None, ())
    assert damaged.guarantee is not None
    assert damaged.guarantee.everywhere is None
    assert not any("gamma" in m.hospitals for m in damaged.guarantee.meanings)
    failed = {(check.name, one.subject) for check, one in damaged.failed}
    assert {("ledger unbroken", "gamma"), ("uploads paid for", "beta")} <= failed
    states = {c.requirement: c.state for f in damaged.frameworks for c in f.controls}
    assert states["Audit controls"] == "failed"
    assert states["Unit of privacy"] == "unchecked"
    assert "not known" in render(damaged)


def test_without_a_plan_nothing_is_claimed(nothing: AuditReport) -> None:
    assert not nothing.holds
    assert [(c.name, r.subject) for c, r in nothing.failed] == [("the run can be read", "run")]
    assert (nothing.study, nothing.guarantee, nothing.budgets, nothing.participants) == (None, None, (), ())
    assert nothing.without_privacy == ()
    assert "Not known: the plan could not be read." in render(nothing)
    assert "None found in plan and ledgers" not in render(nothing)
    assert {f.path: f.sha256 for f in nothing.files} == {
        "plan.toml": None,
        "coordinator/roster.json": None,
        "coordinator/transcript.jsonl": None,
    }


def test_without_a_transcript_nobody_is_said_to_have_taken_part(run: Run) -> None:
    run.transcript.unlink()
    report = gather(Inputs(run.root), LATER)
    assert all(p.said.startswith(("Not known", "Its transcript does not")) for p in report.participants)
    assert report.study is not None
    assert report.study.rounds_published is None


def test_a_hospital_without_a_card_did_not_join(run: Run) -> None:
    run.change_roster(lambda cards: cards.pop("delta"))
    report = gather(Inputs(run.root), LATER)
    delta = next(p for p in report.participants if p.name == "delta")
    assert delta.key_fingerprint is None
    assert not report.holds


def test_what_a_member_wrote_cannot_command_a_terminal_or_fill_the_page(run: Run) -> None:
    """Validly signed, by members who may write what they like: channel names, reasons, rounds."""

    def later(entry: dict[str, Any]) -> None:
        entry["round"] = 2**52

    def strange(entry: dict[str, Any]) -> None:
        later(entry)
        entry["channels"][0]["name"] = "\x1b[2J\u202e"

    path, key = run.ledger("omega"), run.scribe.hospitals["omega"]
    reserved = forge(path.read_bytes(), 0, later, key, chain=True)
    released = forge(reserved, 1, strange, key, chain=True)
    path.write_bytes(b"".join(released.splitlines(keepends=True)[:2]))
    refusals = [run.scribe.refusal("beta", 4, "\x1b]0;evil\x07" * 8)]
    run.scribe.publish(run.scribe.entry([], declined=refusals, absent=["alpha", "gamma", "omega"]))
    run.write_transcript()
    report = gather(Inputs(run.root), LATER)
    assert not report.holds
    assert "\x1b" not in to_json(report).decode()
    assert "\x1b" not in render(report)


def test_a_hospital_that_declines_every_round_has_a_sentence_that_ends(told: Run) -> None:
    """A plan may have ten thousand rounds."""
    examined = Examined(told.root, told.plan, transcript_verified=True)
    refusal = SignedRefusal(hospital="beta", reason="x" * 128, signature="0" * 128)
    entry = TranscriptEntry.model_construct(round=0, cohort=(), declined=(refusal,), absent=())
    examined.transcript = [entry.model_copy(update={"round": n}) for n in range(0, 2000)]
    examined.cards = {"beta": read_sources(Inputs(told.root), LATER).run.cards["beta"]}  # type: ignore[union-attr]
    assert [len(p.said) for p in participants(examined) if p.name == "beta"] == [4000]


def test_an_epsilon_without_a_bound_is_not_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accountant says infinity above 500; JSON and page say that no bound is known, and the check fails."""
    from secure_fedhelp.audit.report import budget

    monkeypatch.setattr(budget, "epsilon", lambda events, delta: float("inf"))
    report = gather(Inputs(run.root), LATER)
    assert {b.committed for b in report.budgets} == {None}
    assert report.guarantee is not None
    assert report.guarantee.everywhere is None


def test_a_canary_file_that_is_none_fails_by_name(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", run.transcript):
        report = gather(Inputs(run.root, canary=path), LATER)
        assert [(c.name, r.subject) for c, r in report.failed] == [("no claim is refuted by canaries", "canaries")]
        assert str(path.parent) not in report.model_dump_json()
        assert report.empirical.said.startswith("Not measured")


def test_an_authority_that_is_none_fails_by_name(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.crt", run.transcript):
        report = gather(Inputs(run.root, ca=path), LATER)
        assert not report.holds
        assert str(path.parent) not in report.model_dump_json()


def test_a_file_that_changes_meanwhile_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from secure_fedhelp.audit.report import sources

    examine = sources.examine_run

    def slow(folder: Path, now: float, ca: bytes | None) -> Examined:
        found = examine(folder, now, ca)
        run.ledger("alpha").write_bytes(b"")
        return found

    monkeypatch.setattr(sources, "examine_run", slow)
    (finding,) = [f for f in read_sources(Inputs(run.root), LATER).findings if not f.ok]
    assert (finding.subject, finding.check) == ("files", "unchanged while they were read")
    assert "hospitals/alpha/ledger.jsonl" in finding.detail


# -- the command ------------------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["report", *(str(a) for a in arguments)], env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_command_writes_both_files_and_ends_with_zero(told: Run, canaries: Path, tmp_path: Path) -> None:
    html, json = tmp_path / "audit.html", tmp_path / "audit.json"
    code, text = invoke(told.root, "--html", html, "--json", json, "--canary", canaries, "--ca", told.root / "ca.crt")
    assert code == 0, text
    report = read_report(json)
    assert html.read_text(encoding="utf-8") == render(report), "the page is its JSON and nothing else"
    assert "Without differential privacy: Exact counts on channel metrics" in text
    assert report.said in text


def test_the_command_ends_with_one_and_still_writes(run: Run, tmp_path: Path) -> None:
    remove(run.transcript)
    code, text = invoke(run.root, "--html", tmp_path / "audit.html")
    assert code == 1
    assert "FAILED coordinator, transcript unbroken" in text
    assert "Checks failed." in (tmp_path / "audit.html").read_text(encoding="utf-8")
    code, _ = invoke(tmp_path / "nowhere", "--json", tmp_path / "audit.json")
    assert code == 1
    assert not read_report(tmp_path / "audit.json").holds


def test_a_report_that_goes_nowhere_is_refused_by_name(told: Run, tmp_path: Path) -> None:
    from secure_fedhelp.errors import InvalidConfiguration, StorageError

    with pytest.raises(InvalidConfiguration, match="nowhere to write"):
        invoke(told.root)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        invoke(told.root, "--html", tmp_path / "file" / "audit.html")
