"""The optimal-dataset-scale F-measure of edges (odsF) by counts, as SEISM takes it for PASCAL-Context and NYUD-v2.

Pont-Tuset and Marques, "Supervised evaluation of image segmentation and object proposal techniques" (IEEE PAMI 38, 2016),
after Martin, Fowlkes and Malik, "Learning to detect natural image boundaries" (IEEE PAMI 26, 2004). At each of 99
thresholds the predicted map is thinned, and predicted and true edge pixels that lie close together are matched one to one.
What differs from SEISM, and what it costs, stands in `docs/edges.md`.

Labels are (H, W) uint8: 1 edge, 0 none, 255 ignored. Ignored pixels are neither predicted nor true.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.errors import EnvironmentProblem
from bmtas.extras import require
from bmtas.thinning import thin_bits

Counts = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.bool_]

THRESHOLDS: npt.NDArray[np.float64] = np.arange(1, 100) / 100
"""The 99 thresholds, 0.01 to 0.99."""

_IGNORE = 255
_WORD = 64
_PIXELS_AT_HOME = 300_000  # two images of 320x480 take as long as two processes take to start and count them
_MOST_WORKERS = 16
_IMAGES_PER_WORKER = 2  # one in work, one waiting: memory stays bounded


def match_counts(probability: npt.NDArray[np.floating[Any]], label: _Bytes, tolerance: float) -> Counts:
    """Return the counts (99, 4) of one image, a row per threshold: cntR, sumR, cntP, sumP.

    These are the true pixels that were matched, all true pixels, the predicted ones that were matched, all predicted ones.
    `probability` (H, W) lies in [0, 1] where the label is valid; it is rounded to 255ths, halves up, as in the 8-bit files
    that SEISM reads, and a pixel is predicted at threshold k/100 if its 255ths reach it. `tolerance` is the largest
    distance of a pair as a share of the diagonal of the box around the valid pixels, so that padding changes nothing.
    An image without valid pixels counts as nothing. Raises ValueError for values and shapes other than these.
    """
    return _count(_quantised(probability, label), label, _checked(tolerance))


def best_f(counts: Counts) -> tuple[float, float]:
    """Return the best F-measure in [0, 1] and its threshold, of `counts` (99, 4) summed over images.

    P = cntP / sumP, R = cntR / sumR, F = 2 P R / (P + R). Nothing is interpolated between thresholds; of equal ones the
    lowest is named. P, R and F are 0 where they would be 0 / 0; both numbers are NaN if no pixel is true and none was
    predicted at any threshold.
    """
    matched_true, true, matched_predicted, predicted = counts.astype(np.float64).T
    if not (true.any() or predicted.any()):
        return math.nan, math.nan
    precision, recall = _ratio(matched_predicted, predicted), _ratio(matched_true, true)
    f = _ratio(2 * precision * recall, precision + recall)
    best = int(f.argmax())
    return float(f[best]), float(THRESHOLDS[best])


def _ratio(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _checked(tolerance: float) -> float:
    if not 0 <= tolerance < 1:
        raise ValueError(f"the tolerance is {tolerance}; it is a share of the image diagonal, from 0 to below 1")
    return tolerance


def _quantised(probability: npt.NDArray[np.floating[Any]], label: _Bytes) -> _Bytes:
    """Return the probabilities in 255ths (H, W), 0 where the label is ignored."""
    if probability.ndim != 2 or probability.shape != label.shape:
        raise ValueError(f"probability {probability.shape} and label {label.shape} must have the same shape (H, W)")
    if label.dtype != np.uint8 or ((label > 1) & (label < _IGNORE)).any():
        raise ValueError("the label must be uint8 with 1 for edge, 0 for none and 255 for ignored")
    valid = label != _IGNORE
    values = np.where(valid, probability, 0).astype(np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("the prediction has values outside [0, 1] or NaN; edges take probabilities, not logits")
    return np.floor(255 * values + 0.5).astype(np.uint8)


def _count(levels: _Bytes, label: _Bytes, tolerance: float) -> Counts:
    """Return the counts (99, 4) of a prediction in 255ths, which is 0 where the label is ignored."""
    counts = np.zeros((len(THRESHOLDS), 4), dtype=np.int64)
    valid = label != _IGNORE
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    if not rows.size:
        return counts
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    truth = thin_bits((label[box] == 1).astype(np.uint64)) != 0
    words = [thin_bits(table[levels[box]]) for table in _TABLES]
    kept = np.flatnonzero((words[0] | words[1]).reshape(-1))
    height, width = truth.shape
    # A distance that is the radius but for rounding counts: 0.0075 of a diagonal of 400 pixels is 3 pixels.
    near = _neighbours(kept, truth, (tolerance * math.hypot(height, width)) ** 2 * (1 + 1e-9))
    kept_words = [word.reshape(-1)[kept] for word in words]
    counts[:, 1] = truth.sum()
    before: _Mask | None = None
    for k in range(len(THRESHOLDS)):
        present = (kept_words[k // _WORD] >> np.uint64(k % _WORD)) & np.uint64(1) != 0
        if before is not None and np.array_equal(present, before):
            counts[k] = counts[k - 1]
            continue
        matched = _matched(near, np.flatnonzero(present))
        counts[k, 0] = counts[k, 2] = matched
        counts[k, 3] = np.count_nonzero(present)
        before = present
    return counts


def _reached() -> list[npt.NDArray[np.uint64]]:
    """Return two tables (256,): the words of 64 thresholds each, bit k on if a pixel of that many 255ths reaches it."""
    # In whole numbers: p / 255 >= k / 100.
    reached = np.arange(256)[:, None] * 100 >= np.arange(1, 100) * 255
    tables = []
    for start in range(0, len(THRESHOLDS), _WORD):
        part = reached[:, start : start + _WORD].astype(np.uint64)
        tables.append(np.bitwise_or.reduce(part << np.arange(part.shape[1], dtype=np.uint64), axis=1))
    return tables


_TABLES = _reached()


def _neighbours(kept: npt.NDArray[np.intp], truth: _Mask, most: float) -> Any:
    """Return the sparse matrix (kept pixels, true pixels) of the pairs whose squared distance in pixels is at most `most`.

    `kept` are flat indices into `truth` (H, W).
    """
    reach = math.isqrt(math.floor(most))
    # With a margin no step leaves the map or comes back in at the other side.
    height, width = truth.shape
    stride = width + 2 * reach
    number = np.full((height + 2 * reach) * stride, -1, dtype=np.int32)
    inside = (kept // width + reach) * stride + kept % width + reach
    number[inside] = np.arange(kept.size, dtype=np.int32)
    true_rows, true_columns = np.nonzero(truth)
    places = (true_rows + reach) * stride + true_columns + reach
    found: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]] = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down**2 + right**2 <= most:
                hit = number[places + (down * stride + right)]
                true = np.flatnonzero(hit >= 0)
                found.append((hit[true], true))
    pixels, true = (np.concatenate(part) for part in zip(*found, strict=True))
    sparse = require("scipy.sparse", "train")
    near = sparse.csr_array((np.ones(pixels.size, dtype=np.int32), (pixels, true)), shape=(kept.size, places.size))
    near.sort_indices()
    return near


def _matched(near: Any, chosen: npt.NDArray[np.intp]) -> int:
    """Return how many pairs a largest one-to-one matching of the rows `chosen` of `near` with its columns has.

    As the largest flow from a source over rows and columns to a sink, all capacities 1. scipy's
    `maximum_bipartite_matching` asks for less, but it follows dead ends again and again and takes minutes on some maps.
    """
    chosen = chosen[np.diff(near.indptr)[chosen] > 0]
    if not chosen.size:
        return 0
    sparse, graphs = require("scipy.sparse", "train"), require("scipy.sparse.csgraph", "train")
    part = near[chosen]
    rows, columns = part.shape
    source, sink = rows + columns, rows + columns + 1
    indices = np.concatenate([part.indices + rows, np.full(columns, sink), np.arange(rows)]).astype(np.int32)
    # One arc from each column to the sink, one from the source to each row, none from the sink.
    ends = part.nnz + np.append(np.arange(1, columns + 1), [columns + rows] * 2)
    indptr = np.concatenate([part.indptr, ends]).astype(np.int32)
    graph = sparse.csr_array((np.ones(indices.size, dtype=np.int32), indices, indptr), shape=(sink + 1, sink + 1))
    return int(graphs.maximum_flow(graph, source, sink, method="dinic").flow_value)


class EdgeCounter:
    """Sums the counts of many images, in worker processes once there are enough images to be worth starting them.

    The sums are the same for any number of workers. Close the counter, use it in a `with` statement or let go of it, and
    its processes end; counters that are open at the same time share them.
    """

    def __init__(self, tolerance: float, workers: int | None = None) -> None:
        """Take the tolerance of `match_counts` and the number of processes; None: one per core, at most 16; 1 starts none."""
        self._tolerance = _checked(tolerance)
        self._workers = _cores() if workers is None else workers
        if self._workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1, or None for one per core")
        self._sums = np.zeros((len(THRESHOLDS), 4), dtype=np.int64)
        self._pixels = 0
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: deque[Future[Counts]] = deque()
        self._closed = False

    def add(self, probability: npt.NDArray[np.floating[Any]], label: _Bytes) -> None:
        """Count one image; both as `match_counts` takes them.

        Returns at once while workers have room. Raises ValueError for values and shapes that `match_counts` refuses or if
        the counter is closed, and what a worker raised over an image before; EnvironmentProblem if one was killed.
        """
        if self._closed:
            raise ValueError("the counter is closed")
        levels = _quantised(probability, label)
        self._pixels += levels.size
        if self._workers == 1 or self._pixels <= _PIXELS_AT_HOME:
            self._sums += _count(levels, label, self._tolerance)
            return
        if self._pool is None:
            self._pool = _shared_pool(self._workers)
        while len(self._waiting) >= _IMAGES_PER_WORKER * self._workers:
            self._collect()
        with _explained():
            self._waiting.append(self._pool.submit(_count, levels, label, self._tolerance))

    def counts(self) -> Counts:
        """Return the sums (99, 4) over all images so far, as `match_counts` orders them; more may be added after.

        Waits for the workers and raises what they raised.
        """
        while self._waiting:
            self._collect()
        return self._sums.copy()

    def close(self) -> None:
        """Drop what is not yet counted and let go of the processes, which end if no other counter uses them."""
        self._closed = True
        for image in self._waiting:
            image.cancel()
        self._waiting.clear()
        self._pool = None

    def __enter__(self) -> EdgeCounter:
        """Return the counter."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the counter."""
        self.close()

    def _collect(self) -> None:
        with _explained():
            self._sums += self._waiting.popleft().result()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not everywhere; and os.process_cpu_count needs Python 3.13
        return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    return min(os.cpu_count() or 1, _MOST_WORKERS)


# A pool ends with the last reference to it, so with the last counter that uses it.
_pools: weakref.WeakValueDictionary[int, ProcessPoolExecutor] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def _shared_pool(workers: int) -> ProcessPoolExecutor:
    with _sharing:
        pool = _pools.get(workers)
        if pool is None:
            # Spawned: a forked copy of a process whose threads (torch's) hold locks may hang.
            pool = _pools[workers] = ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker)
            # All at once: where one has died while another starts, Python 3.11 waits for the new one without end.
            with _interrupts_held_back():
                for _ in range(workers):
                    pool.submit(_warm_up)
        return pool


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _warm_up() -> None:
    """Import what counting needs, which takes so long that no process is done before the last one is started."""
    require("scipy.sparse.csgraph", "train")


def _end_with_parent() -> None:
    """End this process if its parent was killed, which the pool itself would never notice."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise EnvironmentProblem(
            "a process that matches edges has died: killed for want of memory (free some, or take fewer workers), or it could "
            "not import the main script (put what that does under `if __name__ == '__main__':`)"
        ) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes that start here be born deaf to Ctrl-C, so that none prints a traceback while it still imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
