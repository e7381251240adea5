"""Which tasks can use whose layers, and how many of them: the transfer test on the data set `planted`.

Warms a supergraph up as the search does (candidate t of every layer learns on task t alone), then for each source task
and number of layers freezes the stem and that many of its candidates, and trains the layers that are left and the head,
all fresh, on a target task. Prints the target's validation loss as a share of that of its best constant prediction: for
the source's mate (the other task of its pair) and for a task of the other pair. Layers that serve both alike can be
shared by all; layers that serve the mate but not the other should be shared by the pair alone.

To read the table: a network that tells the light from the dark side and nothing else is at `ground only`; 0 is perfect.

    python benchmarks/planted_warmup.py [--warmup 300] [--steps 200] [--seeds 0] [--sources a1,b1] [--layers 0,3,...,18]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from bmtas.config import Optimiser
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader
from bmtas.data.planted import PLANTED_PAIRS, Planted
from bmtas.losses import task_loss
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.tasks import Task

BACKBONE = get_backbone("mobilenet_v2")
SIZE = (64, 64)
EVALUATION_BATCH = 32
DEFAULT_LAYERS = ",".join(str(n) for n in range(0, BACKBONE.layers + 1, 3))


def learn(graph: Supergraph, batches: Batches, steps: int, rate: float, frozen: Sequence[torch.nn.Module] = ()) -> None:
    """Take `steps` steps per task on each task's own candidates; `frozen` modules stay as they are."""
    channels_last(graph.train())
    for module in frozen:
        module.requires_grad_(False).eval()
    optimiser = weight_optimiser(Optimiser.ADAMW, [p for p in graph.parameters() if p.requires_grad], rate)
    layers, _, candidates = graph.shape
    for step in range(steps):
        batch = batches[step]
        set_poly_rate(optimiser, step / steps)
        for t, task in enumerate(graph.tasks):
            loss = task_loss(
                task, graph(batch.images, t, own_candidates(layers, candidates, t)), batch.labels[task.name]
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()


@torch.no_grad()
def validation_loss(graph: Supergraph, index: int, batches: Sequence[Batch]) -> float:
    """Return the mean loss of task `index` on its own candidates."""
    graph.eval()
    task, (layers, _, candidates) = graph.tasks[index], graph.shape
    mix = own_candidates(layers, candidates, index)
    losses = [task_loss(task, graph(b.images, index, mix), b.labels[task.name]) for b in batches]
    return float(np.mean(losses))


def constant_loss(task: Task, batches: Sequence[Batch]) -> float:
    """Return the loss of the best prediction that is the same for every pixel: the entropy of the classes."""
    counts = sum(torch.bincount(b.labels[task.name].flatten(), minlength=task.channels).double() for b in batches)
    shares = counts / counts.sum()  # type: ignore[union-attr] # there are batches
    return float(-(shares * shares.log()).sum())


def grafted(source: Supergraph, index: int, taken: int, target: Task) -> tuple[Supergraph, list[torch.nn.Module]]:
    """Return a network of `target` with the stem and the first `taken` layers of task `index`, and these parts."""
    graph = Supergraph(BACKBONE, [target], None)
    graph.stem.load_state_dict(source.stem.state_dict())
    parts: list[torch.nn.Module] = [graph.stem]
    for layer in range(taken):
        own, other = graph.layers[layer], source.layers[layer]
        assert isinstance(own, torch.nn.ModuleList)
        assert isinstance(other, torch.nn.ModuleList)
        own[0].load_state_dict(other[index].state_dict())
        parts.append(own[0])
    return graph, parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warmup", type=int, default=300, help="steps per task of the supergraph's warm-up")
    parser.add_argument("--steps", type=int, default=200, help="steps of each target")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=6e-3, help="learning rate of AdamW")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--sources", default="a1")
    parser.add_argument("--layers", default=DEFAULT_LAYERS, help="how many layers are taken from the source")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads win little at this size, and lose much where the machine is shared
    data, start = Planted(), time.perf_counter()
    train = Loader(data, "train", data.tasks, SIZE)
    validation = list(Loader(data, "val", data.tasks, SIZE).in_order(EVALUATION_BATCH))
    names = [task.name for task in data.tasks]
    constants = {task.name: constant_loss(task, validation) for task in data.tasks}
    # Who knows the side but not the hidden number guesses among three on about half of the pixels.
    print(
        f"constant {np.mean(list(constants.values())):.3f} nats; ground only {math.log(3) / 2 / np.mean(list(constants.values())):.2f}"
    )
    for seed in (int(part) for part in options.seeds.split(",")):
        batches = Batches(train, range(train.count), options.batch, seed, Augmentation())
        torch.manual_seed(seed)
        warm = Supergraph(BACKBONE, data.tasks, None)
        learn(warm, batches, options.warmup, options.rate)
        alone = {name: validation_loss(warm, t, validation) / constants[name] for t, name in enumerate(names)}
        print(f"seed {seed}, warm-up: " + ", ".join(f"{name} {value:.2f}" for name, value in alone.items()), flush=True)
        for source in options.sources.split(","):
            own = next(pair for pair in PLANTED_PAIRS if source in pair)
            mate = next(name for name in own if name != source)
            other = next(pair for pair in PLANTED_PAIRS if pair is not own)[own.index(source)]
            print(f"layers of {source}   mate {mate}   other {other}")
            for taken in (int(part) for part in options.layers.split(",")):
                values = []
                for target in (mate, other):
                    torch.manual_seed(seed + 1)
                    graph, parts = grafted(warm, names.index(source), taken, data.tasks[names.index(target)])
                    learn(graph, batches, options.steps, options.rate, parts)
                    values.append(validation_loss(graph, 0, validation) / constants[target])
                print(
                    f"{taken:12}{values[0]:10.2f}{values[1]:11.2f}    {time.perf_counter() - start:4.0f} s", flush=True
                )
        batches.close()


if __name__ == "__main__":
    main()
