"""Work in processes of this machine, where one that dies costs its own item and no other.

The kernel kills what takes too much memory, and with one process the whole pool of Python is broken; it does not say
whose it was.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def each(work: Callable[[Item], Done], items: Sequence[Item], jobs: int) -> Iterator[tuple[Item, Done | None]]:
    """``work`` of every item, ``jobs`` at a time, as they end; None where the process died.

    Whatever was in flight as a pool broke is tried once more, alone: so the culprit is found and the others are done.
    What ``work`` raises is raised. If interrupted, what is in flight is waited for and given, and then it is raised.
    """
    waiting = deque(items)
    while waiting:
        for item in (yield from _until_broken(work, waiting, jobs)):
            if (yield from _until_broken(work, deque([item]), 1)):
                yield item, None


def _until_broken(
    work: Callable[[Item], Done], waiting: deque[Item], jobs: int
) -> Generator[tuple[Item, Done | None], None, list[Item]]:
    """Works off ``waiting``; returns the items that were in flight as the pool broke, none if it did not."""
    flying: dict[Future[Done], Item] = {}
    # spawn, not fork: a forked copy of torch's threads can hang
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while waiting or flying:
                # no more than there are processes: an item in the pool's own queue could not be told from one at work
                while waiting and len(flying) < jobs:
                    flying[pool.submit(work, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    done = future.result()
                    yield flying.pop(future), done
        except BrokenProcessPool:
            pool.shutdown()
            yield from _ended(flying)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            yield from _ended(flying)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return list(flying.values())


def _ended(flying: dict[Future[Done], Item]) -> Iterator[tuple[Item, Done]]:
    """Takes out of ``flying`` what has come to its end."""
    for future in list(flying):
        if not future.cancelled() and future.exception() is None:
            yield flying.pop(future), future.result()
