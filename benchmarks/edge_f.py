"""Does the F-measure of edges (odsF) come fast enough? A whole data set, and ours against the straightforward way in turn.

    python benchmarks/edge_f.py [--images 200] [--workers N] [--rounds 5] [--tolerance 0.0075]

Label maps of real photographs where `shared/data/ccp` lies beside the repository, else of generated scenes, at 321x481, the
size of BSDS; predictions are the labels shifted, blurred to varying thickness and covered with smooth noise, so that all 99
thresholds differ. First the whole set, in one process and with workers, which must count the same. Then images of half the
size, ours and the straightforward way in turn: scikit-image's `thin` and scipy's `linear_sum_assignment` over all pairs of a
predicted and a true pixel, threshold by threshold. Both must count the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.edges import THRESHOLDS, Counts, EdgeCounter, best_f, match_counts
from bmtas.extras import require

CCP = Path(__file__).resolve().parents[2] / "shared/data/ccp/edge"

Image = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def labels(count: int) -> list[npt.NDArray[np.uint8]]:
    """Return `count` edge maps of 321x481 or 481x321, nothing ignored."""
    if not CCP.is_dir():
        from bmtas.data.scenes import Scenes

        scenes = Scenes(train=count, val=1)
        return [scenes.load("train", i, size=(321, 481), tasks=["edge"]).labels["edge"] for i in range(count)]
    pil = require("PIL.Image", "train")
    files = sorted(CCP.glob("*.png"))
    picked = (files[i % len(files)] for i in range(count))
    return [(np.array(pil.open(f).resize((321, 481), pil.Resampling.NEAREST)) == 1).astype(np.uint8) for f in picked]


def predict(label: npt.NDArray[np.uint8], seed: int) -> Image:
    """Return a made-up prediction and the label."""
    blur = require("scipy.ndimage", "train").gaussian_filter
    rng = np.random.default_rng(seed)

    def noise(scale: float) -> npt.NDArray[np.float32]:
        field = blur(rng.standard_normal(label.shape, dtype=np.float32), scale)
        return field / field.std()

    edges = np.roll(label.astype(np.float32), rng.integers(-2, 3, 2), (0, 1))
    thick = np.where(noise(25) > 0, 2 * blur(edges, 1.2), 4 * blur(edges, 3))
    logits = 5 * thick - 3.5 + noise(3) + 1.2 * noise(12) + 0.3 * noise(1)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), label


def timed_counts(images: list[Image], tolerance: float, workers: int | None) -> tuple[float, Counts]:
    """Return the seconds from the first image to the last count, starting the processes included, and the counts."""
    start = time.perf_counter()
    with EdgeCounter(tolerance, workers) as counter:
        for image in images:
            counter.add(*image)
        counts = counter.counts()
        return time.perf_counter() - start, counts


def straightforward(image: Image, tolerance: float) -> Counts:
    """Return what `match_counts` returns, threshold by threshold, by the library functions that one would take first."""
    thin = require("skimage.morphology", "dev").thin
    assign = require("scipy.optimize", "train").linear_sum_assignment
    distances = require("scipy.spatial.distance", "train").cdist
    probability, label = image
    levels = np.floor(255 * probability.astype(np.float64) + 0.5).astype(int)
    true = np.argwhere(thin(label))
    counts = np.zeros((len(THRESHOLDS), 4), dtype=np.int64)
    for k in range(len(THRESHOLDS)):
        predicted = np.argwhere(thin(levels * 100 >= 255 * (k + 1)))
        apart = distances(predicted, true) > tolerance * np.hypot(*label.shape)
        matched = int((~apart[assign(apart)]).sum())
        counts[k] = matched, len(true), matched, len(predicted)
    return counts


def whole_set(images: list[Image], tolerance: float, workers: int | None) -> None:
    """Time and print the whole set."""
    before = time.process_time()
    alone, expected = timed_counts(images, tolerance, 1)
    core = time.process_time() - before  # what others take from this machine shows in the other figures only
    together, counts = timed_counts(images, tolerance, workers)
    assert np.array_equal(counts, expected), "workers count something else than one process"
    levels = len({tuple(row) for row in counts.tolist()})
    f, threshold = best_f(counts)
    who = "one per core" if workers is None else workers
    print(
        f"{len(images)} images of 321x481, tolerance {tolerance}: one process {alone:.1f} s, of which {core:.1f} s on a core, "
        f"{len(images) / alone:.1f} images/s; workers ({who}) {together:.1f} s ({len(images) / together:.1f} images/s), "
        f"{os.getloadavg()[0]:.1f} processes wanted {os.cpu_count()} cores in the last minute\n"
        f"odsF {f:.4f} at {threshold:.2f}, {levels} of 99 thresholds differ, the same counts on both sides",
        flush=True,
    )


def against_straightforward(images: list[Image], tolerance: float) -> None:
    """Run both sides in turn on each image and print the ratio."""
    theirs, ours = [], []
    for image in images:
        start = time.perf_counter()
        expected = straightforward(image, tolerance)
        middle = time.perf_counter()
        counts = match_counts(*image, tolerance)
        theirs.append(middle - start)
        ours.append(time.perf_counter() - middle)
        assert np.array_equal(counts, expected), "the straightforward way counts something else"
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    low, median, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.1, 0.5, 0.9))
    print(
        f"half the size, {len(images)} images in turn: straightforward {statistics.median(theirs):.2f} s per image, "
        f"ours {statistics.median(ours):.3f} s, {median:.0f} times as fast ({low:.0f} to {high:.0f}), the same counts"
    )


def main() -> None:
    """Measure both and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=5, help="images on which both ways run in turn")
    parser.add_argument("--tolerance", type=float, default=0.0075)
    arguments = parser.parse_args()
    found = labels(max(arguments.images, arguments.rounds + 1))
    match_counts(*predict(found[0], 0), arguments.tolerance)  # imports what it needs
    whole_set(
        [predict(label, i) for i, label in enumerate(found[: arguments.images])], arguments.tolerance, arguments.workers
    )
    halves = [predict(label[::2, ::2], i) for i, label in enumerate(found[: arguments.rounds])]
    against_straightforward(halves, arguments.tolerance)


if __name__ == "__main__":
    main()
