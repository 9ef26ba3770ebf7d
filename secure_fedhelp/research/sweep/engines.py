"""Where runs are executed: processes of this machine, or a Ray cluster. Either gives results as they come.

A run that fails, by whatever error or because its process dies, is reported and does not end the sweep; it is done
again when the sweep is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from secure_fedhelp.errors import ClusterUnavailable, FedHelpError, InvalidConfiguration, MissingExtra
from secure_fedhelp.research.sweep import pool
from secure_fedhelp.research.sweep.execute import RunResult, execute
from secure_fedhelp.research.sweep.runs import Run


@dataclass(frozen=True)
class Outcome:
    """One run that has ended: its result, or the words of its error."""

    run: Run
    result: RunResult | None
    error: str | None = None


def attempt(run: Run) -> Outcome:
    """Execute one run; whatever it raises becomes words, of a mistake with its place. Only an interrupt is raised."""
    try:
        return Outcome(run, execute(run))
    except FedHelpError as error:
        return Outcome(run, None, f"{type(error).__name__}: {error.message}")
    except (Exception, SystemExit) as error:  # networks and methods of one's own may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join([f"{type(error).__name__}:", *str(error).split()])
        return Outcome(run, None, f"{said[:300]} ({place.filename}, line {place.lineno})")


def processes(runs: Sequence[Run], jobs: int) -> Iterator[Outcome]:
    """``jobs`` at a time, each in a process with one thread of torch: more threads than cores wait for one another.

    One job is this process itself, with all its threads: if the machine has too little memory, the sweep ends.
    """
    if jobs < 1:
        raise InvalidConfiguration("at least one job is needed", "Use --jobs 2, for instance.")
    if jobs == 1:
        yield from map(attempt, runs)
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by children as they start
    try:
        for run, outcome in pool.each(attempt, runs, jobs):
            yield outcome or Outcome(run, None, "its process ended: out of memory?")
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def ray(runs: Sequence[Run], address: str | None) -> Iterator[Outcome]:
    """On a Ray cluster at ``address`` (None: one that Ray starts here); one core a run.

    Every node needs this version of the package, and the data at the same place. A run whose worker dies has failed;
    it is not tried again here, for one that needs more memory than there is would be tried for ever. Raises
    MissingExtra without Ray and ClusterUnavailable if no fitting cluster answers.
    """
    if find_spec("ray") is None:
        raise MissingExtra("Ray is not installed", "Install it: pip install 'secure-fedhelp[ray]'.")
    if address is not None:
        _require_listening(address)
    # Ray would report its use to its makers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A cluster listens to the network and runs what it is sent: without a token, everybody's code.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray as cluster

    own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        cluster.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # a version that differs is a RuntimeError, a refused token another one
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterUnavailable(f"Ray at {address or 'this machine'}: {' '.join(reason)[:300]}") from error
    try:
        remote = cluster.remote(num_cpus=1, max_retries=0)(_attempt_in)
        waiting = {remote.remote(run, Path.cwd()): run for run in runs}
        try:
            while waiting:
                (ready, *_), _ = cluster.wait(list(waiting), num_returns=1)
                outcome = _collected(cluster, waiting[ready], ready)
                del waiting[ready]
                yield outcome
        except KeyboardInterrupt:
            for ready in cluster.wait(list(waiting), num_returns=len(waiting), timeout=0)[0] if waiting else ():
                yield _collected(cluster, waiting[ready], ready)
            raise
    finally:
        cluster.shutdown()


def _collected(cluster: Any, run: Run, ready: Any) -> Outcome:
    """What came of a run on the cluster; whatever is raised in its place has failed this run alone."""
    from ray.exceptions import RayTaskError

    try:
        return _of_this_version(run, cluster.get(ready))
    except Exception as error:  # the worker or its node died, or could not read what it was sent
        said = str(error).strip().splitlines() or [""]
        # Ray puts the traceback of over there before the error, and advice after the death of a worker
        line = said[-1] if isinstance(error, RayTaskError) else f"{type(error).__name__}: {said[0]}"
        return Outcome(run, None, line[:300])


def _attempt_in(run: Run, folder: Path) -> Outcome:
    """On a worker, which has one core: relative paths mean what they mean where the sweep was started."""
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):  # not on this node; then a missing file is named, if one is missing
        os.chdir(folder)
    return attempt(run)


def _of_this_version(run: Run, outcome: Outcome) -> Outcome:
    """A result of another version's code has another identity, and would be done again for ever."""
    if outcome.result is None or outcome.result.run == run.id:
        return outcome
    return Outcome(run, None, f"{ClusterUnavailable.__name__}: a node has another version of secure-fedhelp")


def _require_listening(address: str) -> None:
    """Ask first whether anybody listens: Ray itself tries for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not (separator and port.isdigit()):
        raise InvalidConfiguration(
            f"{address!r} is no address of a Ray cluster", "For example --ray-address HOST:6379."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnavailable(f"nobody listens at {address}: {error}") from error
