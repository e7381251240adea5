"""How much memory the activations of a tree take at most, layer by layer: the cost table's peak memory.

The network is that of a tree, run as `GraphNetwork` runs it: layer by layer, the groups of a layer
in order, then the heads in task order; every value is dropped after its last use, and the image, which the caller
holds, is alive throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bmtas.memory import BYTES_PER_MIB, trace_activations
from bmtas.networks.backbone import Backbone
from bmtas.networks.heads import build_head
from bmtas.networks.network import to_image_size
from bmtas.tasks import Task


@dataclass(frozen=True)
class _Part:
    """Bytes of one operation on one image: its peak with inputs and output, its first input, its output.

    `full` is the prediction at the image's size where the part is the head of a dense task, else 0.
    """

    peak: int
    before: int
    after: int
    full: int = 0


@dataclass(frozen=True)
class Activations:
    """What the operations of a backbone and the heads of T tasks keep alive, in bytes at float32 and batch 1.

    `tap` is the index of the layer whose output the heads read beside the last one's; it is not the last one.
    """

    image: int
    stem: _Part
    layers: tuple[_Part, ...]
    heads: tuple[_Part, ...]
    tap: int

    def stem_mib(self) -> float:
        """Return the peak of the stem in MiB, the image included."""
        return self.stem.peak / BYTES_PER_MIB

    def head_mib(self, task: int) -> float:
        """Return the peak in MiB of one head by itself: the image, its features and tap, its raw prediction."""
        return (self.image + self.heads[task].peak) / BYTES_PER_MIB

    def layer_mib(self, layer: int, tasks: int) -> list[float]:
        """Return the most MiB alive while `layer` (0-based) runs with 1, 2, ... `tasks` groups of the first `tasks` tasks.

        While the i-th of g groups runs, alive are: the image; the peak of one copy, that is its input, intermediates and
        output; the inputs of the g - i groups still to come; the i - 1 outputs of those done; and after the layer that
        the heads tap, the tapped values: at most g, since later groupings refine earlier ones. The most over i is

            image + peak + (g - 1) max(input, output)              layers up to the tapped one
            image + peak + (g - 1) (tap + output)                  the next one, whose inputs are the tapped values
            image + peak + (g - 1) max(input, output) + g tap      layers after that

        and in the last layer at least what the heads need with its g features, `_heads_bytes`. It never falls with g.

        It is exact where the layers before have g groups too; so it is exact for networks that share all layers. A
        number of groups does not tell how many there were before: where tasks part late, up to g - 1 inputs or tapped
        values are counted that are one and the same. The input of layer 0 is counted g times as well, though branched
        networks have one: so the greatest bound for g = T holds for separate networks, which have T stems, and is exact
        for the tree that shares only the stem, unless layer 0 decides with an input larger than its output (MobileNetV2
        from nine tasks on). Over random trees for the five tasks of PASCAL-Context the greatest bound of a tree is on
        average 3.5 % above what the network takes with MobileNetV2, at most 8.4 %; with ResNet-50, whose tapped value is
        wide, 21 % and 58 % (`python benchmarks/peak_memory.py --trees 40`).
        """
        part, tap = self.layers[layer], self.layers[self.tap].after
        bounds = []
        for groups in range(1, tasks + 1):
            if layer == self.tap + 1:
                waiting = (groups - 1) * (tap + part.after)
            else:
                waiting = (groups - 1) * max(part.before, part.after) + (groups * tap if layer > self.tap else 0)
            bound = part.peak + waiting
            if layer == len(self.layers) - 1:
                bound = max(bound, self._heads_bytes(groups, tasks))
            bounds.append((self.image + bound) / BYTES_PER_MIB)
        return bounds

    def _heads_bytes(self, groups: int, tasks: int) -> int:
        """Return the most bytes alive beside the image while the heads of the first T = `tasks` tasks run, and after.

        While the k-th head runs: its own peak; the raw predictions of those before it; features and taps of the groups
        that the T - k heads to come read, at most g - 1 beside its own. Then the predictions of dense tasks are brought
        to the image's size one after the other, and each takes the place of its raw one.
        """
        kept = self.layers[-1].after + self.layers[self.tap].after
        heads = self.heads[:tasks]
        most = done = 0
        for k, head in enumerate(heads, start=1):
            most = max(most, min(groups - 1, tasks - k) * kept + done + head.peak)
            done += head.after
        for head in heads:
            if head.full:
                most = max(most, done + head.full)
                done += head.full - head.after
        return most


def measure_activations(backbone: Backbone, tasks: Sequence[Task], size: tuple[int, int]) -> Activations:
    """Trace every operation of `backbone` and the heads of `tasks` for one float32 image of `size` (height, width).

    Nothing is computed: all runs on the meta device. Raises what an operation raises on an image that is too small.
    """
    with torch.device("meta"):
        values = [torch.empty(1, 3, *size)]
        operations = backbone.operations()
        heads = [build_head(task, backbone) for task in tasks]
    parts = []
    for module in operations.values():
        peak, output = trace_activations(module, values[-1:])
        parts.append(_Part(peak, values[-1].nbytes, output.nbytes))
        values.append(output)
    read = [values[-1], values[backbone.tap + 2]]  # values[0] is the image, values[1] the stem's output
    return Activations(
        image=values[0].nbytes,
        stem=parts[0],
        layers=tuple(parts[1:]),
        heads=tuple(_head(head, read, size if task.dense else None) for head, task in zip(heads, tasks, strict=True)),
        tap=backbone.tap,
    )


def _head(head: Any, read: list[Tensor], size: tuple[int, int] | None) -> _Part:
    peak, raw = trace_activations(head, read)
    return _Part(peak, read[0].nbytes, raw.nbytes, to_image_size(raw, size).nbytes if size else 0)
