"""Run independent tasks in worker processes. A worker that fails or is killed ends all with one clear error."""

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import RawArray
from typing import Any

from data_prep.dataset.files import DataError, describe_os_error
from data_prep.orphans import end_with_parent
from data_prep.progress import Progress

ReportProgress = Callable[[int, int], None]
"""report(done, words): progress of a task so far, in the progress bar's unit, and in words."""
Task = Callable[..., None]
"""task(*arguments, report): a module-level function, because worker processes import it by name."""

_POLL_SECONDS = 0.2
_counts: Any = None  # in a worker: the shared array from which the parent reads the progress


def num_workers(workers: int) -> int:
    """Return `workers`, or the number of cores that this process may use if workers is 0."""
    if workers < 0:
        raise DataError(f"workers={workers} is no number of processes; use 0 (one a core) or more")
    return workers or usable_cores()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    task: Task,
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Progress,
    before: tuple[int, int] = (0, 0),
    ended: Callable[..., None] = lambda *argument: None,
) -> None:
    """Run task(*arguments[i], report) for every i. before: (done, words) of earlier calls, for the progress.

    ended: called in this process with arguments[i] when task i has ended; an error that it raises stops all tasks.
    Raises DataError for the first failure, after the running tasks have stopped.
    """
    progress.start_at(*before)
    counts = RawArray(ctypes.c_int64, 2 * max(1, len(arguments)))  # done and words of each task

    def show() -> None:
        progress.update(before[0] + sum(counts[0::2]), before[1] + sum(counts[1::2]))

    if workers > 1 and len(arguments) > 1:
        _run_in_pool(task, arguments, min(workers, len(arguments)), counts, show, ended)
    else:
        for number, argument in enumerate(arguments):
            _run_one(task, argument, _reporter(counts, number, show))
            ended(*argument)
    progress.close()


def _reporter(counts: Any, number: int, show: Callable[[], None] = lambda: None) -> ReportProgress:
    def report(done: int, words: int) -> None:
        counts[2 * number : 2 * number + 2] = [done, words]
        show()

    return report


def _run_one(task: Task, argument: tuple[Any, ...], report: ReportProgress) -> None:
    try:
        task(*argument, report)
    except OSError as error:
        raise DataError(describe_os_error(error)) from error
    except MemoryError as error:
        raise DataError("out of memory; use fewer workers or a larger machine") from error


def _run_in_pool(
    task: Task,
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    counts: Any,
    show: Callable[[], None],
    ended: Callable[..., None],
) -> None:
    # Spawn, do not fork: the caller may have threads (torch, a logger) whose locks a forked child would never get.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin_worker, (counts,))
    try:
        futures = {
            pool.submit(_run_in_worker, task, number, argument): argument for number, argument in enumerate(arguments)
        }
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                future.result()
                ended(*futures[future])
            show()
        pool.shutdown()
    except BrokenProcessPool as error:
        _stop(pool)
        raise DataError(
            "a worker process was killed, perhaps because memory ran out; run the same command again to "
            "resume, with fewer workers if memory ran out"
        ) from error
    except BaseException:
        _stop(pool)
        raise


def _stop(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    """Stop all workers. Tasks are atomic, so a stopped task leaves no result behind."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    pool.shutdown(wait=True)


def _begin_worker(counts: Any) -> None:
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; only the parent handles it
    end_with_parent()


def _run_in_worker(task: Task, number: int, argument: tuple[Any, ...]) -> None:
    _run_one(task, argument, _reporter(_counts, number))
