"""``audit epsilon``: by study and data set, over hospitals, and loud where a figure would be taken for more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ledgers import EVENT, channels, fixed_key, open_ledger
from typer.testing import CliRunner

from secure_fedhelp.audit.epsilon import distinct, everywhere, recompute, shown
from secure_fedhelp.cli.audit import app
from secure_fedhelp.errors import InvalidPlan, LedgerInvalid
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import ChannelRelease
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact

NAME = "university-hospital-of-the-north-department-of-radiology-and-so"
NOISED = Gaussian(noise_multiplier=9.0, sensitivity=2.0)


def place(study: str, dataset: str = "d", delta: float = 1e-4) -> dict[str, Any]:
    return {"study": study * 64, "dataset": dataset * 64, "delta": delta}


def release(ledger: Ledger, number: int, where: dict[str, Any], *events: Any, noise: str = "system") -> None:
    what = channels(number)
    if events and not isinstance(events[0], DpSgd):
        proof = {"mechanism": events[0].kind, "derived_from": ("event:0",)}
        what = [ChannelRelease(name="metrics", values_sha256="0" * 64, **proof)]
    ledger.release(events or (EVENT,), round=number, channels=what, noise_source=noise, **where)  # type: ignore[arg-type]


@pytest.fixture
def alpha(tmp_path: Path) -> Path:
    """Two studies on one data set, one on another; a reservation that is open and one given back."""
    path = tmp_path / "alpha.jsonl"
    with open_ledger(path, NAME) as ledger:
        for number in range(3):
            release(ledger, number, place("1"))
        release(ledger, 0, place("2", delta=1e-5), NOISED)
        release(ledger, 0, place("3", "e"))
        ledger.void(ledger.reserve([EVENT] * 9, round=8, **place("1")))
        ledger.reserve([EVENT, EVENT], round=9, **place("1"))
    return path


@pytest.fixture
def beta(tmp_path: Path) -> Path:
    path = tmp_path / "beta.jsonl"
    with open_ledger(path, "beta", fixed_key(1)) as ledger:
        release(ledger, 0, place("1"), PooledExact(smallest_cohort=5))
        release(ledger, 1, place("1"), noise="seeded-research")
    return path


def invoke(*arguments: object, columns: int = 80) -> tuple[int, str]:
    words = ["epsilon", *(str(a) for a in arguments)]
    done = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": str(columns)})
    return done.exit_code, done.output


def test_a_ledger_adds_up_by_study_and_data_set_and_all_together(alpha: Path) -> None:
    report = recompute(alpha)
    first, second, third = report.parts
    assert [(p.study or "")[0] + (p.dataset or "")[0] for p in report.parts] == ["1d", "2d", "3e"]
    assert (first.releases, first.reservations, first.delta) == (3, 1, 1e-4)
    assert first.spent.pld == epsilon([EVENT] * 3, 1e-4)
    assert first.committed == epsilon([EVENT] * 5, 1e-4)
    assert (second.spent.pld, second.delta) == (epsilon([NOISED], 1e-5), 1e-5)
    assert third.committed == third.spent.pld == epsilon([EVENT], 1e-4)
    assert report.pld == report.total.spent.pld == epsilon([*[EVENT] * 4, NOISED], 1e-5)
    assert report.total.committed == epsilon([*[EVENT] * 6, NOISED], 1e-5)
    assert (report.total.study, report.total.dataset, report.delta) == (None, None, 1e-5)
    assert recompute(alpha, delta=1e-3).pld < report.pld


def test_a_patient_of_every_hospital_pays_at_each(alpha: Path, beta: Path) -> None:
    reports = [recompute(alpha), recompute(beta)]
    both = everywhere(reports)
    assert both.spent.pld == epsilon([*[EVENT] * 5, NOISED], 1e-5) > max(r.pld for r in reports)
    assert both.committed == epsilon([*[EVENT] * 7, NOISED], 1e-5)
    assert (both.delta, both.releases, both.reservations) == (1e-5, 7, 1)
    assert everywhere(reports, 1e-3).spent.pld == epsilon([*[EVENT] * 5, NOISED], 1e-3)
    code, text = invoke(alpha, beta)
    assert code == 0
    row = next(line for line in text.splitlines() if line.strip().startswith("all of them"))
    assert row.split()[-3:] == [shown(both.spent.pld), shown(both.spent.rdp), shown(both.committed)]
    assert "a patient whose records are at every one of these hospitals" in text
    assert "all of them" not in invoke(alpha)[1], "one ledger has no such row"


def test_copies_of_a_ledger_count_once(alpha: Path, beta: Path, tmp_path: Path) -> None:
    """An older copy is the beginning of a newer one: the patient paid for it once."""
    older = tmp_path / "older.jsonl"
    older.write_bytes(b"".join(alpha.read_bytes().splitlines(keepends=True)[:2]))
    reports = [recompute(path) for path in (older, alpha, beta, alpha)]
    assert distinct(reports) == [reports[1], reports[2]]
    assert everywhere(reports) == everywhere([reports[1], reports[2]])
    code, text = invoke(older, alpha, beta, columns=200)
    assert code == 0
    assert text.count("'all of them' counts them once") == 1
    row = next(line for line in text.splitlines() if line.startswith(" all of them"))
    assert shown(everywhere(reports).spent.pld) in row


def test_two_histories_under_one_key_are_a_fork(alpha: Path, beta: Path, tmp_path: Path) -> None:
    """One hospital, one beginning, and another end for each who asks: neither is believed."""
    fork, out = tmp_path / "fork.jsonl", tmp_path / "out.json"
    fork.write_bytes(b"".join(alpha.read_bytes().splitlines(keepends=True)[:2]))
    with open_ledger(fork, NAME) as ledger:
        release(ledger, 7, place("1"))
    code, text = invoke(alpha, beta, fork, "--json", out)
    assert code == 1
    assert f"FAILED {fork}: LedgerInvalid: {fork}: entry 2: it is another one in {alpha}" in text
    assert "not known" in text
    assert json.loads(out.read_bytes())["everywhere"] is None
    both = [recompute(alpha), recompute(fork)]
    assert everywhere(both).releases == 5 + 3, "who adds them up all the same counts both"


def test_what_no_epsilon_stands_for_is_said_aloud(alpha: Path, beta: Path) -> None:
    (exact,) = recompute(beta).exact
    assert (exact.entry, exact.round, exact.smallest_cohort, exact.channels) == (0, 0, 5, ("metrics",))
    text = invoke(alpha, beta)[1]
    assert "NO DIFFERENTIAL PRIVACY: beta, entry 0 (round 1 of study 11111111): exact counts" in text
    assert "a sum of at least 5 hospitals, which was opened. No epsilon stands for them." in text
    assert "NO PROTECTION from who knows the seed: beta drew noise from a seed." in text
    assert "reserved: epsilon if the rounds that were reserved" in text
    quiet = invoke(alpha)[1]
    assert "NO " not in quiet


def test_the_table_fits_eighty_columns_whatever_the_names(alpha: Path, beta: Path, tmp_path: Path) -> None:
    with open_ledger(tmp_path / "huge.jsonl", "gamma", fixed_key(2)) as ledger:
        useless = DpSgd(sampling_rate=0.5, noise_multiplier=0.1, clipping_norm=1.0, steps=1000)
        release(ledger, 0, place("1", delta=1.2345e-5), useless)
    text = invoke(alpha, beta, tmp_path / "huge.jsonl")[1]
    table = text[: text.index("NO DIFFERENTIAL PRIVACY")].splitlines()
    assert max(len(line.rstrip()) for line in table) <= 80
    assert sum("infinite" in line for line in table) == 2, "the ledger's own row, and that of all of them"
    joined = "".join(line.split()[0] for line in table if line.strip())
    assert NAME in joined, "a long name is folded, never cut"


def test_a_ledger_that_does_not_verify_is_named_and_nothing_is_summed(alpha: Path, beta: Path, tmp_path: Path) -> None:
    content = bytearray(beta.read_bytes())
    content[100] ^= 1
    beta.write_bytes(content)
    out = tmp_path / "out.json"
    code, text = invoke(alpha, beta, "--json", out)
    assert code == 1
    assert f"FAILED {beta}: LedgerInvalid: {beta}: entry 0: " in text
    assert "not known" in text
    found = json.loads(out.read_bytes())
    assert found["everywhere"] is None
    assert found["ledgers"][0]["total"]["epsilon"] == recompute(alpha).pld
    assert "LedgerInvalid" in found["ledgers"][1]["error"]
    with pytest.raises(LedgerInvalid):
        recompute(beta)


def test_every_digit_is_in_the_json(alpha: Path, beta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert invoke(alpha, beta, "--json", out)[0] == 0
    found = json.loads(out.read_bytes())
    report = recompute(beta)
    row = found["ledgers"][1]
    assert (row["hospital"], row["public_key"], row["entries"]) == ("beta", report.public_key, 2)
    assert row["total"]["epsilon_by_rdp"] == report.rdp
    assert row["total"]["epsilon_by_prv"] is None
    assert row["no_differential_privacy"][0]["smallest_cohort"] == 5
    assert found["everywhere"]["epsilon_with_reservations"] > found["everywhere"]["epsilon"]


def test_opacus_is_asked_when_wanted(alpha: Path, beta: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, text = invoke(alpha, beta, "--prv", "--json", out)
    assert code == 0
    assert text.count("PRV (Opacus): ") == 3
    found = json.loads(out.read_bytes())
    for figures in (*(row["total"] for row in found["ledgers"]), found["everywhere"]):
        low, high = figures["epsilon_by_prv"]
        assert low <= figures["epsilon"] <= high <= low + 0.03


def test_a_delta_that_means_nothing_is_an_error_of_its_own(alpha: Path) -> None:
    with pytest.raises(InvalidPlan, match="delta 2") as caught:
        invoke(alpha, "--delta", 2)
    assert "--delta" in caught.value.hint


def test_more_steps_than_the_accountant_knows_are_named(tmp_path: Path) -> None:
    """Each ledger has a figure; for both together there is none, and none is made up."""
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for number, path in enumerate(paths):
        with open_ledger(path, f"hospital-{number}", fixed_key(number)) as ledger:
            release(ledger, 0, place("1"), *[DpSgd.model_validate(EVENT.model_dump() | {"steps": 10**6})] * 6)
    reports = [recompute(path) for path in paths]
    with pytest.raises(LedgerInvalid, match="all ledgers together: more than 10,000,000 private steps"):
        everywhere(reports)


def test_a_ledger_s_own_delta_beyond_the_accountant_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    with open_ledger(path) as ledger:
        release(ledger, 0, place("1", delta=1e-13))
    with pytest.raises(LedgerInvalid, match=r"tiny.jsonl: delta 1e-13"):
        recompute(path)
    assert recompute(path, delta=1e-5).pld > 0


def test_nothing_spent_anywhere_is_zero(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    report = recompute(tmp_path / "empty.jsonl")
    assert everywhere([report, report]).spent.pld == 0.0
    code, text = invoke(tmp_path / "empty.jsonl", tmp_path / "empty.jsonl")
    assert code == 0
    assert "signed by nobody" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (2.98710001, "2.9872"), (2.9871, "2.9871"), (math.inf, "infinite")]
)
def test_figures_are_rounded_up(value: float, text: str) -> None:
    assert shown(value) == text
