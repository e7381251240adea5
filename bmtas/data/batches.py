"""Batches of tensors: which images, in which order, augmented how - all decided by a seed and the iteration alone.

Because batch i depends on nothing that came before it, a run that was killed goes on with exactly the batches it would
have seen. Because each image of a batch is augmented by random numbers of its own, several processes that take a share of
each batch see what one process would have seen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bmtas.data.augment import Augmentation, augment
from bmtas.data.chosen import require_labelled, spread
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import LostDataError, UsageError
from bmtas.tasks import IGNORE, Task, TaskKind

_CACHE_BYTES = 1 << 30  # decoded samples up to this size stay in memory
_MOST_WORKERS = 8
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """`images` is (N, 3, H, W) float32 in [-1, 1] (paper, appendix A); `labels` as `bmtas.losses` takes them.

    `counts` are those of the labels of the whole batch, by task, if this is a part of one; empty if it is all of it.
    """

    images: Tensor
    labels: dict[str, Tensor]
    ids: tuple[str, ...]
    counts: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        if device.type == "cpu":
            return self
        labels, counts = ({k: _moved(v, device) for k, v in d.items()} for d in (self.labels, self.counts))
        return Batch(_moved(self.images, device), labels, self.ids, counts)

    def with_counts(self, counts: dict[str, Tensor]) -> Batch:
        """Return this part of a batch with the counts of the whole one."""
        return replace(self, counts=counts)

    def parts(self, count: int) -> list[Batch]:
        """Return the batch cut into `count` equal parts, in order. Raises ValueError if its images cannot be cut so."""
        size, left = divmod(len(self.ids), count)
        if left:
            raise ValueError(f"{len(self.ids)} images cannot be cut into {count} equal parts")
        cuts = [slice(i * size, (i + 1) * size) for i in range(count)]
        return [
            Batch(self.images[c], {k: v[c] for k, v in self.labels.items()}, self.ids[c], self.counts) for c in cuts
        ]


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on a GPU, copied from pinned memory while the GPU still works on what came before."""
    return tensor.pin_memory().to(device, non_blocking=True)


def image_tensor(image: np.ndarray) -> Tensor:
    """Map (H, W, 3) uint8 to (3, H, W) in [-1, 1], of PyTorch's default type; the exported network's metadata states the rule."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(torch.get_default_dtype()) / 127.5 - 1.0


def label_tensor(task: Task, label: np.ndarray | None, size: tuple[int, int]) -> Tensor:
    """Return one label as a tensor; where there is none, one that is invalid everywhere."""
    if task.kind is TaskKind.CLASSIFICATION:
        return torch.tensor(-1 if label is None else int(label))
    if task.kind is TaskKind.NORMALS:
        return torch.zeros(3, *size) if label is None else torch.from_numpy(label.transpose(2, 0, 1).copy()).float()
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return torch.full(size, float("nan")) if label is None else torch.from_numpy(label.copy()).float()
    return torch.full(size, IGNORE, dtype=torch.uint8) if label is None else torch.from_numpy(label.copy())


def collate(samples: Sequence[Sample], tasks: Sequence[Task]) -> Batch:
    """Stack samples of equal size."""
    size = samples[0].image.shape[:2]
    labels = {
        task.name: torch.stack([label_tensor(task, s.labels.get(task.name), size) for s in samples]) for task in tasks
    }
    images = torch.stack([image_tensor(s.image) for s in samples])
    images = images.contiguous(memory_format=torch.channels_last)  # the layout in which CPUs convolve faster
    return Batch(images, labels, tuple(s.id for s in samples))


class Loader:
    """Loads samples of one split at one size, keeping as many decoded ones in memory as fit the cache.

    Images that can have no label of the tasks are left out: indices go from 0 to below `count`, over the others.
    """

    def __init__(self, dataset: Dataset, split: str, tasks: Sequence[Task], size: tuple[int, int]) -> None:
        """Raises UsageError if no image of the split has a label of the tasks."""
        self.dataset, self.split, self.tasks, self.size = dataset, split, tuple(tasks), size
        self._places = require_labelled(dataset, split, [task.name for task in self.tasks])
        self.count = len(self._places)
        self._cache: dict[int, Sample] = {}
        self._room = _CACHE_BYTES
        self._bookkeeping = threading.Lock()

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        sample = self._cache.get(index)
        if sample is None:
            names = [task.name for task in self.tasks]
            sample = self.dataset.load(self.split, self._places[index], size=self.size, tasks=names)
            size = sample.image.nbytes + sum(label.nbytes for label in sample.labels.values())
            with self._bookkeeping:
                if size <= self._room and index not in self._cache:
                    self._room -= size
                    self._cache[index] = sample
        return sample

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the samples of these indices, unaugmented, as a batch."""
        return collate([self[i] for i in indices], self.tasks)

    def in_order(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the samples in their own order, unaugmented; at most `limit` of them, evenly spread over all."""
        # The first ones would be those of a few classes or places where the list is sorted by them.
        chosen = spread(self.count, limit)
        for start in range(0, len(chosen), batch_size):
            yield self.batch(chosen[start : start + batch_size])


class Batches:
    """An endless shuffled sequence of augmented batches over some indices of a loader's split.

    With a `share` (k, n) it yields the k-th (from 0) of n equal parts of every batch.
    """

    def __init__(
        self,
        loader: Loader,
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Raises UsageError if there is no image at all. Fewer images than a batch holds come several times in it.

        Raises ValueError if a batch cannot be cut into that many equal parts.
        """
        if not len(indices):
            raise UsageError(
                f"the {loader.split} split has {loader.count} images, which leaves none for this phase; add images"
            )
        self.loader, self.indices, self.batch_size, self.seed = loader, np.asarray(indices), batch_size, seed
        self.augmentation = augmentation
        number, of = share
        if batch_size % of:
            raise ValueError(f"a batch of {batch_size} images cannot be cut into {of} equal parts")
        self._mine = range(number * (batch_size // of), (number + 1) * (batch_size // of))
        # Ahead of the network: decoding, drawing and resizing release the interpreter for most of their time.
        self._pool = ThreadPoolExecutor(max_workers=_workers(), thread_name_prefix="batches")
        self._ahead: dict[int, list[Future[Sample]]] = {}
        self.waited_s = 0.0  # so long has the network waited for images

    @property
    def per_epoch(self) -> int:
        """Full batches in one pass over the indices; an incomplete last one is dropped."""
        return max(1, len(self.indices) // self.batch_size)

    def __getitem__(self, iteration: int) -> Batch:
        """Return batch `iteration`, and start on the next ones. Raises LostDataError where a file cannot be read."""
        ahead = range(iteration, iteration + 1 + _BATCHES_AHEAD)
        for later in ahead:
            if later not in self._ahead:
                self._ahead[later] = self._begin(later)
        for old in [i for i in self._ahead if i not in ahead]:
            del self._ahead[old]
        start = time.perf_counter()
        futures = self._ahead.pop(iteration)
        try:
            samples = [future.result() for future in futures]
        except UsageError as error:
            raise LostDataError(str(error)) from error
        self.waited_s += time.perf_counter() - start
        return collate(samples, self.loader.tasks)

    def close(self) -> None:
        """Stop working ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, iteration: int) -> list[Future[Sample]]:
        """Have the images of this share of batch `iteration` loaded and augmented."""
        epoch, position = divmod(iteration, self.per_epoch)
        shuffle = np.random.default_rng([self.seed, epoch])
        rounds = -(-self.batch_size // len(self.indices))  # more than one only where the images do not fill a batch
        order = np.concatenate([shuffle.permutation(self.indices) for _ in range(rounds)])
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        return [self._pool.submit(self._make, int(chosen[i]), epoch, position, i) for i in self._mine]

    def _make(self, index: int, epoch: int, position: int, place: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, position, place])
        return augment(self.loader[index], self.loader.tasks, self.augmentation, rng)


def _workers() -> int:
    """Return how many threads load images: all cores of this machine are for all of torchrun's processes on it."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // processes))


def split_indices(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return (share of `count`, the rest): the images for architecture parameters and for weights, by seed alone."""
    order = np.random.default_rng([seed, count]).permutation(count)
    first = min(max(1, round(count * share)), count - 1)  # neither side is left without images if there are two
    return sorted(int(i) for i in order[:first]), sorted(int(i) for i in order[first:])
