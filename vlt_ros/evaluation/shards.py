# SPDX-License-Identifier: Apache-2.0
"""Independent pieces of work over processes: ``--jobs`` on one machine, torchrun's processes across machines.

Torchrun's processes split the pieces evenly by their cost; within each, ``jobs`` workers take the next one as they get
free. Who does a piece changes nothing about its result.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import Any

from vlt_ros.evaluation.errors import EvaluationError

# A process that is through waits for the slowest one.
PATIENCE = timedelta(days=30)


def share(costs: Sequence[float], rank: int, world: int) -> list[int]:
    """Which pieces process ``rank`` of ``world`` does, in order: dearest first, each to whom has least so far."""
    loads, mine = [0.0] * world, []
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        taker = min(range(world), key=lambda r: (loads[r], r))
        loads[taker] += costs[index]
        if taker == rank:
            mine.append(index)
    return sorted(mine)


@contextlib.contextmanager
def joined():
    """Join torchrun's processes for a run; gives this one's rank and their number, (0, 1) without torchrun."""
    import torch

    from vlt_ros.training import distributed

    with distributed.processes(torch.device("cpu"), PATIENCE):
        yield distributed.rank(), distributed.world_size()


def gather(rows: list) -> list:
    """The lists of all of torchrun's processes, one after another, on each of them."""
    from vlt_ros.training.distributed import gather as all_rows

    return all_rows(rows)


def own_device(device: str, number: int) -> str:
    """The device of worker ``number`` on its machine: with ``auto`` and several GPUs each takes the next one."""
    import torch

    if device != "auto" or not torch.cuda.is_available():
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def work(pieces: Iterable[Any], do: Callable[[Any, Callable[[], object]], Any], jobs: int,
         progress: Callable[[], object]) -> list[Any]:
    """Do every piece and give the results in the pieces' order.

    Args:
        pieces: picklable with several jobs. do: a function of a module, from a piece and a ``progress`` to call
            after every frame; it must not raise for a piece's own faults. jobs: processes; 1 works in this one.
        progress: called in this process once for every call in the workers.

    Raises:
        EvaluationError: a worker died.
    """
    pieces = list(pieces)
    if jobs == 1 or not pieces:
        return [do(piece, progress) for piece in pieces]
    import multiprocessing

    # Forked children of a process that has used torch's threads can hang.
    context = multiprocessing.get_context("spawn")
    ticks, counter = context.Queue(), context.Value("i", _number)
    # The far end closes with this process, however it ends. (An Event would hang once one that waits was killed.)
    leash, end = context.Pipe(duplex=False)
    with end, ProcessPoolExecutor(min(jobs, len(pieces)), context, _prepare, (ticks, leash, counter, jobs)) as pool:
        try:
            futures = [pool.submit(_in_worker, do, piece) for piece in pieces]
            while not all(future.done() for future in futures):
                with contextlib.suppress(queue.Empty):
                    for _ in range(ticks.get(timeout=0.2)):
                        progress()
                failed = next((future for future in futures if future.done() and future.exception()), None)
                if failed is not None:
                    raise failed.exception()
            return [future.result() for future in futures]
        except BaseException as error:
            end.close()
            if isinstance(error, BrokenProcessPool):
                raise EvaluationError("a worker process died, perhaps for want of memory; what was finished is kept: "
                                      "run the same command again, with fewer --jobs") from error
            raise


def worker_number() -> int:
    """Number of this worker among those of its machine, 0 in a process that has none."""
    return _number


_number = int(os.environ.get("LOCAL_RANK", "0"))
_ticks: Any = None


def _prepare(ticks, leash, counter, jobs: int) -> None:
    """Set up a worker: its share of the cores, and its end when the process that started it ends or says so."""
    import cv2
    import torch

    global _number, _ticks
    _ticks = ticks
    with counter.get_lock():
        _number, counter.value = counter.value, counter.value + 1
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    cv2.setNumThreads(max(1, cv2.getNumThreads() // jobs))
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        with contextlib.suppress(EOFError, OSError):
            leash.recv()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _in_worker(do: Callable, piece: Any) -> Any:
    pending = 0

    def progress() -> None:
        nonlocal pending
        pending += 1
        if pending == 10:
            _ticks.put(pending)
            pending = 0

    result = do(piece, progress)
    if pending:
        _ticks.put(pending)
    return result
