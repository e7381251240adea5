"""Batches of tensors: which images, in which order, augmented how - all decided by a seed and the iteration alone.

Because batch i depends on nothing that came before it, a run that was killed goes on with exactly the batches it would
have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bmtas.data.augment import Augmentation, augment
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import UsageError
from bmtas.tasks import IGNORE, Task, TaskKind

_CACHE_BYTES = 1 << 30  # decoded samples up to this size stay in memory


@dataclass(frozen=True)
class Batch:
    """`images` is (N, 3, H, W) float32 in [-1, 1] (paper, appendix A); `labels` as `bmtas.losses` takes them."""

    images: Tensor
    labels: dict[str, Tensor]
    ids: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return Batch(self.images.to(device), {k: v.to(device) for k, v in self.labels.items()}, self.ids)


def image_tensor(image: np.ndarray) -> Tensor:
    """Map (H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]; the exported network's metadata states the same rule."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 127.5 - 1.0


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
    """Loads samples of one split at one size, keeping as many decoded ones in memory as fit the cache."""

    def __init__(self, dataset: Dataset, split: str, tasks: Sequence[Task], size: tuple[int, int]) -> None:
        self.dataset, self.split, self.tasks, self.size = dataset, split, tuple(tasks), size
        self.count = len(dataset.ids(split))
        self._cache: dict[int, Sample] = {}
        self._room = _CACHE_BYTES

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        sample = self._cache.get(index)
        if sample is None:
            names = [task.name for task in self.tasks]
            sample = self.dataset.load(self.split, index, size=self.size, tasks=names)
            size = sample.image.nbytes + sum(label.nbytes for label in sample.labels.values())
            if size <= self._room:
                self._room -= size
                self._cache[index] = sample
        return sample

    def in_order(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the samples in their own order, unaugmented; at most `limit` of them."""
        count = self.count if limit is None else min(limit, self.count)
        for start in range(0, count, batch_size):
            samples = [self[i] for i in range(start, min(start + batch_size, count))]
            yield collate(samples, self.tasks)


class Batches:
    """An endless shuffled sequence of augmented batches over some indices of a loader's split."""

    def __init__(
        self, loader: Loader, indices: Sequence[int], batch_size: int, seed: int, augmentation: Augmentation
    ) -> None:
        """Raises UsageError if there is no image at all. Fewer images than a batch holds come several times in it."""
        if not len(indices):
            raise UsageError(
                f"the {loader.split} split has {loader.count} images, which leaves none for this phase; add images"
            )
        self.loader, self.indices, self.batch_size, self.seed = loader, np.asarray(indices), batch_size, seed
        self.augmentation = augmentation
        # One image ahead of the network: decoding and drawing release the interpreter for most of their time.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[Batch]] = {}

    @property
    def per_epoch(self) -> int:
        """Full batches in one pass over the indices; an incomplete last one is dropped."""
        return max(1, len(self.indices) // self.batch_size)

    def __getitem__(self, iteration: int) -> Batch:
        """Return batch `iteration`, and start on the next one."""
        future = self._ahead.pop(iteration, None) or self._pool.submit(self._make, iteration)
        self._ahead = {iteration + 1: self._pool.submit(self._make, iteration + 1)}
        return future.result()

    def close(self) -> None:
        """Stop working ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, iteration: int) -> Batch:
        epoch, position = divmod(iteration, self.per_epoch)
        shuffle = np.random.default_rng([self.seed, epoch])
        rounds = -(-self.batch_size // len(self.indices))  # more than one only where the images do not fill a batch
        order = np.concatenate([shuffle.permutation(self.indices) for _ in range(rounds)])
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, epoch, position])
        tasks = self.loader.tasks
        return collate([augment(self.loader[int(i)], tasks, self.augmentation, rng) for i in chosen], tasks)


def split_indices(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return (share of `count`, the rest): the images for architecture parameters and for weights, by seed alone."""
    order = np.random.default_rng([seed, count]).permutation(count)
    first = min(max(1, round(count * share)), count - 1)  # neither side is left without images if there are two
    return sorted(int(i) for i in order[:first]), sorted(int(i) for i in order[first:])
