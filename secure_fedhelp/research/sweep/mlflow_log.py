"""A sweep's results in MLflow, one MLflow run for each of ours, for those who compare experiments there.

The sweep's folder remains the record: what cannot be logged is still in it, and is logged when the sweep is started
again. Which of our runs an MLflow run is, its tag says; so none is logged twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from secure_fedhelp.errors import MissingExtra, TrackingUnavailable
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.store import run_row

#: Our run's id, on every MLflow run.
TAG = "secure_fedhelp.run"
#: Of a row of results.csv: what was run; the rest that is a number is a metric.
_PARAMETERS = ("study", "dataset", "contender", "epsilon", "seed", "rounds", "encryption", "plan_sha256", "versions")
_NOTHING = ("run", "method")
_ENVIRONMENT = {
    # A hospital's experiments are nobody's business: MLflow would report its use to its makers.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_DEFAULTS = {
    # A folder needs no database; newer releases ask to be told that this is meant.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # Seven retries with growing pauses would take minutes to say that nobody answers.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MlflowLog:
    """Logs finished runs at ``uri`` (a folder or a server), in the experiment of the study's name.

    Raises MissingExtra without MLflow, and TrackingUnavailable if nobody answers there; after that it raises nothing:
    the first failure is kept in ``failure`` and ends the logging, not the sweep.
    """

    def __init__(self, uri: str, study: str) -> None:
        if find_spec("mlflow") is None:
            raise MissingExtra("MLflow is not installed", "Install it: pip install 'secure-fedhelp[mlflow]'.")
        os.environ.update(_ENVIRONMENT)
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.failure: TrackingUnavailable | None = None
        #: A server's address may have a password, which no message may show.
        self._secret = urlsplit(uri).netloc.rpartition("@")[0]
        self._place = self._without_secret(uri)
        self._client: Any = self._try(lambda: MlflowClient(tracking_uri=uri))
        self._experiment: str = self._try(lambda: self._experiment_of(study))
        #: MLflow's id and state of each of our runs that it has.
        self._known: dict[str, tuple[str, str]] = self._try(self._find)

    def __call__(self, result: RunResult) -> None:
        """Log a finished run, if it was not logged before and no logging has failed."""
        if self.failure is not None or self._known.get(result.run, ("", ""))[1] == "FINISHED":
            return
        try:
            self._try(lambda: self._log(result))
        except TrackingUnavailable as error:
            self.failure = error

    def _try(self, what: Callable[[], Any]) -> Any:
        try:
            return what()
        except Exception as error:  # MLflow, its stores and their drivers have no common class of errors
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise TrackingUnavailable(f"MLflow at {self._place}: {self._without_secret(reason[0])[:300]}") from error

    def _experiment_of(self, study: str) -> str:
        found = self._client.get_experiment_by_name(study)
        return str(found.experiment_id if found else self._client.create_experiment(study))

    def _find(self) -> dict[str, tuple[str, str]]:
        known: dict[str, tuple[str, str]] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                if TAG in run.data.tags:
                    known[run.data.tags[TAG]] = (run.info.run_id, run.info.status)
            token = page.token
            if not token:
                return known

    def _log(self, result: RunResult) -> None:
        from mlflow.entities import Metric, Param

        row = run_row(result)
        parameters = {name: row[name] for name in _PARAMETERS}
        for name, value in (json.loads(result.method) if result.method else {}).items():
            parameters["method" if name == "name" else f"method.{name}"] = value
        left = {name: value for name, value in row.items() if name not in (*_PARAMETERS, *_NOTHING)}
        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, 0) for name, value in left.items() if value is not None]
        # one that was killed on the way is there already and is completed
        ident = self._known.get(result.run, ("", ""))[0] or self._create(result)
        self._known[result.run] = (ident, "RUNNING")
        self._client.log_batch(ident, metrics, [Param(name, str(value)) for name, value in parameters.items()])
        self._client.set_terminated(ident, "FINISHED")
        self._known[result.run] = (ident, "FINISHED")

    def _create(self, result: RunResult) -> str:
        name = f"{result.contender}, epsilon {result.epsilon}, seed {result.seed}"
        return str(self._client.create_run(self._experiment, tags={TAG: result.run}, run_name=name).info.run_id)

    def _without_secret(self, text: str) -> str:
        return text.replace(f"{self._secret}@", "") if self._secret else text
