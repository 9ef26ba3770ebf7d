"""One run's mistake, or its process's death, is that run's failure; what others have done is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from dying import work
from sweeps import result, runs

from secure_fedhelp.research.sweep import engines, pool
from secure_fedhelp.research.sweep.engines import Outcome, attempt
from secure_fedhelp.research.sweep.runs import Run


@pytest.mark.parametrize("error", [RuntimeError("mat1 and\nmat2"), MemoryError("mat1 and mat2"), SystemExit(3)])
def test_whatever_a_run_raises_becomes_words_with_a_place(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own_network(run: Run) -> None:
        raise error

    monkeypatch.setattr(engines, "execute", own_network)
    outcomes = list(engines.processes(runs("public", seeds=2), 1))
    assert [o.result for o in outcomes] == [None, None]
    for outcome in outcomes:
        assert (outcome.error or "").startswith(f"{type(error).__name__}: {' '.join(str(error).split())} (")
        assert __file__ in (outcome.error or "")


def test_an_interrupt_is_no_failure_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attempt(runs("public", seeds=1)[0])


def begun(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


def test_a_process_that_dies_costs_its_own_item_alone(tmp_path: Path) -> None:
    names = ["killed", "killed once", "third", "fourth"]
    found = {item[0]: done for item, done in pool.each(work, [(name, tmp_path) for name in names], 2)}
    assert found == {name: None if name == "killed" else name.upper() for name in names}
    assert begun(tmp_path) == {"killed": 2, "killed once": 2, "third": 1, "fourth": 1}


def test_what_has_come_in_is_given_before_an_interrupt_ends_all(tmp_path: Path) -> None:
    names, found = ("first", "interrupted", "never", "nor"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        found.extend(name for (name, _), _ in pool.each(work, [(n, tmp_path) for n in names], 2))
    assert "first" in found
    assert sorted(found) == sorted(begun(tmp_path).keys() - {"interrupted"}), "what was begun was waited for"


def test_a_sweep_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(
        "from pathlib import Path\nfrom dying import work\nfrom secure_fedhelp.research.sweep.pool import each\n"
        f"if __name__ == '__main__':\n    list(each(work, [('waits', Path({str(folder)!r}))], 1))\n"
    )
    support = str(Path(__file__).parents[1] / "support")
    paths = os.pathsep.join([support, str(Path(__file__).parents[2])])
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths})
    try:
        child = psutil.Process(until(lambda: int((folder / "pid").read_text())))
        parent.kill()
        parent.wait()
        child.wait(timeout=60)  # raises if it lives on
    finally:
        parent.kill()


def until(read: Callable[[], int]) -> int:
    """What ``read`` gives as soon as it can."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError, ValueError):
            return read()
        time.sleep(0.02)
    raise TimeoutError


def test_a_run_whose_process_died_is_told_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = runs("public", seeds=2)

    def each(work: Callable[[Run], Outcome], items: list[Run], jobs: int) -> Any:
        yield one, None
        yield two, Outcome(two, result(two))

    monkeypatch.setattr(pool, "each", each)
    failed, done = engines.processes([one, two], 2)
    assert (failed.run, failed.result, failed.error) == (one, None, "its process ended: out of memory?")
    assert done.result is not None


class Cluster:
    """What a Ray cluster gives for each run: a value, or an error that is raised."""

    def __init__(self, given: dict[str, Any], interrupted_after: int = 99) -> None:
        self.given, self.calls, self.interrupted_after = given, 0, interrupted_after

    def init(self, **about: Any) -> None: ...

    def shutdown(self) -> None: ...

    def remote(self, **about: Any) -> Callable[[Any], Any]:
        class Remote:
            remote = staticmethod(lambda run, folder: run.id)

        return lambda function: Remote

    def wait(self, waiting: list[str], num_returns: int, timeout: float | None = None) -> tuple[list[str], list[str]]:
        self.calls += 1
        if self.calls > self.interrupted_after and timeout is None:
            raise KeyboardInterrupt
        return waiting[:num_returns], waiting[num_returns:]

    def get(self, ready: str) -> Outcome:
        if isinstance(self.given[ready], Exception):
            raise self.given[ready]
        return self.given[ready]  # type: ignore[no-any-return]


def on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    for name in ("init", "shutdown", "remote", "wait", "get"):
        monkeypatch.setattr(ray, name, getattr(cluster, name))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def test_whatever_ray_raises_for_a_run_fails_that_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    asked = runs("public", seeds=4)
    there = exceptions.RayTaskError("f", "over there\nModuleNotFoundError: own_network", ModuleNotFoundError("x"))
    errors = [there, exceptions.WorkerCrashedError(), RuntimeError("cannot be read")]
    given = dict(zip([r.id for r in asked], [*errors, Outcome(asked[3], result(asked[3]))], strict=True))
    on(Cluster(given), monkeypatch)
    *failed, done = engines.ray(asked, None)
    assert [o.result for o in failed] == [None] * 3
    assert [(o.error or "").partition(":")[0] for o in failed] == [
        "ModuleNotFoundError", "WorkerCrashedError", "RuntimeError"]  # fmt: skip
    assert done.result is not None


def test_ray_gives_what_has_come_in_before_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, found = runs("public", seeds=3), list[Run]()
    on(Cluster({r.id: Outcome(r, result(r)) for r in asked}, interrupted_after=1), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        found.extend(outcome.run for outcome in engines.ray(asked, None))
    assert found == asked
