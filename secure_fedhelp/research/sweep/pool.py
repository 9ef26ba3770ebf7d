"""Work in processes of this machine, where one that dies costs its own item and no other.

The kernel kills what takes too much memory. A pool of Python's with several processes is then broken as a whole, and
does not say whose it was; so each process here is a pool of its own.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def each(work: Callable[[Item], Done], items: Sequence[Item], jobs: int) -> Iterator[tuple[Item, Done | None]]:
    """``work`` of every item, ``jobs`` at a time, as they end; None where the process died.

    An item whose process died is tried once more at the end, alone: the kernel may have killed it for what another one
    took. What ``work`` raises is raised. If interrupted, what is in flight is waited for and given, and then it is
    raised. No result is None.
    """
    died = []
    for item, done in _side_by_side(work, items, jobs):
        if done is None:
            died.append(item)
        else:
            yield item, done
    for item in died:
        yield from _side_by_side(work, [item], 1)


def _side_by_side(work: Callable[[Item], Done], items: Sequence[Item], jobs: int) -> Iterator[tuple[Item, Done | None]]:
    waiting, flying = deque(items), dict[Future[Done], tuple[Item, ProcessPoolExecutor]]()
    idle = [_process() for _ in range(min(jobs, len(items)))]
    try:
        while waiting or flying:
            while waiting and idle:
                process = idle.pop()
                try:
                    flying[process.submit(work, waiting[0])] = (waiting[0], process)
                except BrokenProcessPool:  # it died without work
                    idle.append(_process())
                else:
                    waiting.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                item, process = flying[future]
                done = None
                try:
                    done = future.result()
                except BrokenProcessPool:
                    process = _process()
                del flying[future]
                idle.append(process)
                yield item, done
    except KeyboardInterrupt:
        wait(flying)
        for future, (item, _) in flying.items():
            if future.exception() is None:
                yield item, future.result()
        raise
    finally:
        for process in (*idle, *(process for _, process in flying.values())):
            process.shutdown()


def _process() -> ProcessPoolExecutor:
    # spawn, not fork: a forked copy of torch's threads can hang
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a new process: end as soon as the one that started it does. A sweep that is killed cannot tell its processes,
    and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only spawned processes begin here"  # noqa: S101  # for the type checker

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
