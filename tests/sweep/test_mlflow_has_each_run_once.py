"""MLflow: each finished run is there once, whenever it was logged, and a log that fails costs no result."""

from __future__ import annotations

import importlib.util
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sweeps import Counting, result, runs
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import MissingExtra, TrackingUnavailable
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.mlflow_log import TAG, MlflowLog
from secure_fedhelp.research.sweep.runs import Run
from secure_fedhelp.research.sweep.sweep import sweep

pytest.importorskip("mlflow")


def logged(folder: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=str(folder))
    return list(client.search_runs([client.get_experiment_by_name("quick").experiment_id]))


def test_a_resumed_sweep_logs_what_was_finished_before_and_nothing_twice(tmp_path: Path) -> None:
    asked, store = runs("fedhelp", "fedavg", seeds=2), tmp_path / "mlflow"
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tmp_path / "out", Counting(dies_after=2))  # without MLflow
    for _ in range(2):
        sweep(asked, tmp_path / "out", Counting(), log=MlflowLog(str(store), "quick"))
        assert sorted(run.data.tags[TAG] for run in logged(store)) == sorted(run.id for run in asked)
    assert {run.info.status for run in logged(store)} == {"FINISHED"}


def test_a_logged_run_says_what_it_was_and_what_came_out(tmp_path: Path) -> None:
    (run,) = runs("fedhelp", seeds=1)
    MlflowLog(str(tmp_path), "quick")(result(run, 0.75, method='{"logits":true,"name":"fedhelp"}'))
    (found,) = logged(tmp_path)
    wanted = {"contender": "fedhelp", "method": "fedhelp", "method.logits": "True", "epsilon": "3", "seed": "1",
              "study": "quick", "plan_sha256": "0", "versions": "v", "encryption": "none"}  # fmt: skip
    assert wanted.items() <= found.data.params.items()
    assert found.data.metrics == {
        "small_personal_auroc": 0.75, "epsilon_spent": 1.0, "bytes_up": 4.0, "seconds": 0.1}  # fmt: skip


def test_a_run_that_was_half_logged_is_completed_not_repeated(tmp_path: Path) -> None:
    (run,) = runs("fedhelp", seeds=1)
    killed = MlflowLog(str(tmp_path), "quick")
    killed._create(result(run))
    MlflowLog(str(tmp_path), "quick")(result(run))
    (found,) = logged(tmp_path)
    assert found.info.status == "FINISHED"
    assert "seconds" in found.data.metrics


def test_a_log_that_fails_on_the_way_loses_nothing_and_is_made_up_for(tmp_path: Path) -> None:
    asked, store = runs("fedhelp", seeds=3), tmp_path / "mlflow"

    def breaking(given: Sequence[Run]) -> Iterator[Outcome]:
        for number, outcome in enumerate(Counting()(given)):
            if number == 1:
                store.rename(tmp_path / "aside")
                store.write_text("a disk that is gone", encoding="utf-8")
            yield outcome

    log = MlflowLog(str(store), "quick")
    assert len(sweep(asked, tmp_path / "out", breaking, log=log)) == 3
    assert isinstance(log.failure, TrackingUnavailable)
    assert (tmp_path / "out" / "report.html").exists()
    store.unlink()
    (tmp_path / "aside").rename(store)
    again = Counting()
    sweep(asked, tmp_path / "out", again, log=MlflowLog(str(store), "quick"))
    assert again.done == []
    assert len(logged(store)) == 3


def test_who_does_not_answer_is_named_at_once_and_no_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        server = f"http://me:secret@127.0.0.1:{reserved.getsockname()[1]}"
        study, out = tmp_path / "study.toml", tmp_path / "out"
        study.write_text('name = "quick"\ndataset = "breast-cancer"\n', encoding="utf-8")
        started = time.monotonic()
        done = CliRunner().invoke(
            app, ["sweep", str(study), "--methods", "public", "--out", str(out), "--mlflow", server]
        )
    assert isinstance(done.exception, TrackingUnavailable)
    assert "secret" not in done.output + done.exception.message
    assert time.monotonic() - started < 30
    assert list(out.glob("runs/*")) == []


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for uri in (str(tmp_path / "file"), "nonsense://there"):
        with pytest.raises(TrackingUnavailable, match="MLflow at"):
            MlflowLog(uri, "quick")


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "secure_fedhelp.research.sweep.mlflow_log.find_spec", lambda name: None if name == "mlflow" else found(name)
    )
    with pytest.raises(MissingExtra, match="MLflow is not installed") as raised:
        MlflowLog("anywhere", "quick")
    assert "secure-fedhelp[mlflow]" in raised.value.hint


def test_nothing_is_told_to_the_makers_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    asked: list[str] = []
    reach = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or reach(host, *rest, **more)
    )
    MlflowLog(str(tmp_path), "quick")(result(runs("fedhelp", seeds=1)[0]))
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert asked == []
