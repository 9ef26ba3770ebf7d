"""Where runs are executed: processes of this machine, or a Ray cluster. Either gives results as they come.

A run that fails is reported with its error and does not end the sweep; it is done again when the sweep is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from secure_fedhelp.errors import FedHelpError, InvalidConfiguration
from secure_fedhelp.research.sweep.execute import RunResult, execute
from secure_fedhelp.research.sweep.runs import Run


@dataclass(frozen=True)
class Outcome:
    """One run that has ended: its result, or the words of its error."""

    run: Run
    result: RunResult | None
    error: str | None = None


def attempt(run: Run) -> Outcome:
    """Execute one run; named errors become words, anything else is a mistake of ours and is raised."""
    try:
        return Outcome(run, execute(run))
    except FedHelpError as error:
        return Outcome(run, None, f"{type(error).__name__}: {error.message}")


def processes(runs: Sequence[Run], jobs: int) -> Iterator[Outcome]:
    """``jobs`` at a time, each in a process with one thread of torch: more threads than cores wait for one another."""
    if jobs < 1:
        raise InvalidConfiguration("at least one job is needed", "Use --jobs 2, for instance.")
    if jobs == 1 or len(runs) == 1:
        yield from map(attempt, runs)
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by children as they start
    try:
        # spawn, not fork: a forked copy of torch's threads can hang
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = [pool.submit(attempt, run) for run in runs]
            try:
                for future in as_completed(waiting):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def ray(runs: Sequence[Run], address: str | None) -> Iterator[Outcome]:
    """On a Ray cluster at ``address`` (None: one that Ray starts here); one core a run. Data must be at the same
    place on every node."""
    try:
        import ray as cluster
    except ImportError as error:
        raise InvalidConfiguration("Ray is not installed", "Install it: pip install 'secure-fedhelp[ray]'.") from error
    cluster.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    try:
        remote = cluster.remote(num_cpus=1)(attempt)
        waiting = [remote.remote(run) for run in runs]
        while waiting:
            ready, waiting = cluster.wait(waiting, num_returns=1)
            yield cluster.get(ready[0])
    finally:
        cluster.shutdown()
