"""The F-measure of edges against scikit-image's thinning with scipy's optimal assignment, and cases by hand."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.morphology import thin

import bmtas.edges
from bmtas.edges import THRESHOLDS, EdgeCounter, best_f, match_counts
from bmtas.errors import EnvironmentProblem

Image = tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]


def most_pairs(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], radius: float) -> int:
    """Return the size of a largest one-to-one matching, by the cost matrix of all pairs."""
    apart = cdist(np.argwhere(predicted), np.argwhere(true)) > radius
    rows, columns = linear_sum_assignment(apart)
    return int((~apart[rows, columns]).sum())


def brute_counts(probability: npt.NDArray[np.float64], label: npt.NDArray[np.uint8], radius: float) -> list[list[int]]:
    true = thin(label == 1)
    counts = []
    for k in range(1, 100):
        # In hundredths of 255ths, so that nothing is rounded.
        predicted = thin((np.floor(255 * probability + 0.5).astype(int) * 100 >= 255 * k) & (label != 255))
        matched = most_pairs(predicted, true, radius)
        counts.append([matched, int(true.sum()), matched, int(predicted.sum())])
    return counts


def random_image(seed: int, shape: tuple[int, int] = (24, 32), ignored: float = 0.0, smooth: float = 1.0) -> Image:
    """A smooth random prediction and thick random edges that have something to do with it."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), smooth)
    probability = 1 / (1 + np.exp(-4 * field / field.std()))
    label = (gaussian_filter(field + 0.3 * rng.standard_normal(shape), 1) > 0.5 * field.std()).astype(np.uint8)
    label[rng.random(shape) < ignored] = 255
    label[0, 0] = label[-1, -1] = 0  # the box of valid pixels is the whole image
    return probability, label


def columns(*lit: int, shape: tuple[int, int] = (30, 40)) -> npt.NDArray[np.uint8]:
    """Vertical lines, a pixel wide, over the whole height."""
    lines = np.zeros(shape, dtype=np.uint8)
    lines[:, list(lit)] = 1
    return lines


def f_of(predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8], tolerance: float) -> float:
    return best_f(match_counts(predicted.astype(np.float64), true, tolerance))[0]


# --- matching


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ignored", [0, 0.1])
def test_counts_against_brute_force(seed: int, ignored: float) -> None:
    probability, label = random_image(seed, ignored=ignored)
    assert (label == 1).any()
    # the diagonal of 24 x 32 is 40
    for tolerance, radius in ((0.0, 0.0), (0.03, 1.2), (0.05, 2.0), (0.09, 3.6)):
        counts = match_counts(probability, label, tolerance)
        assert counts.tolist() == brute_counts(probability, label, radius), (tolerance, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_counts_against_brute_force_on_larger_images(seed: int) -> None:
    probability, label = random_image(seed, (90, 120), smooth=0.7 + seed / 2)  # diagonal 150
    assert match_counts(probability, label, 0.02).tolist() == brute_counts(probability, label, 3.0)


@pytest.mark.parametrize(("shift", "share"), [(0, 1), (1, 1), (2, 1), (3, 0)])
def test_a_shifted_line_counts_as_far_as_the_tolerance_goes(shift: int, share: float) -> None:
    # 30 x 40 has the diagonal 50: 0.04 are 2 pixels, and exactly 2 are near enough
    assert f_of(columns(20 + shift), columns(20), 0.04) == share


@pytest.mark.parametrize(("pixels", "tolerance"), [(3, 0.0075), (2, 0.005)])
def test_a_distance_that_is_just_the_tolerance_counts(pixels: int, tolerance: float) -> None:
    shape = (240, 320)  # diagonal 400; in floating point 0.0075 times 0.0075 times 160000 is not 9
    true = columns(100, shape=shape)
    assert f_of(columns(100 + pixels, shape=shape), true, tolerance) == 1
    assert f_of(columns(101 + pixels, shape=shape), true, tolerance) == 0


def test_the_tolerance_is_a_circle() -> None:
    true, predicted = np.zeros((2, 30, 40), dtype=np.uint8)
    true[10, 10] = true[20, 30] = 1
    predicted[12, 12] = predicted[20, 32] = 1  # 2.83 and 2 pixels away
    assert match_counts(predicted.astype(float), true, 0.05)[0].tolist() == [1, 2, 1, 2]
    assert match_counts(predicted.astype(float), true, 0.057)[0].tolist() == [2, 2, 2, 2]


def test_two_lines_beside_a_true_one_count_once() -> None:
    counts = match_counts(columns(18, 22).astype(np.float64), columns(20), 0.04)
    assert counts[50].tolist() == [30, 30, 30, 60]
    assert best_f(counts)[0] == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_a_matching_that_greed_misses() -> None:
    # predicted at 10 and 12, true at 11 and 13: who takes 12 for 11 leaves 10 and 13 alone
    true, predicted = np.zeros((2, 30, 40), dtype=np.uint8)
    true[5, [11, 13]] = predicted[5, [10, 12]] = 1
    assert match_counts(predicted.astype(float), true, 0.02)[0].tolist() == [2, 2, 2, 2]


def test_thick_maps_are_thinned_on_both_sides() -> None:
    true = np.zeros((30, 40), dtype=np.uint8)
    true[:, 20:25] = 1
    counts = match_counts(true.astype(np.float64), true, 0)
    matched, total, _, predicted = counts[0].tolist()
    assert matched == total == predicted == thin(true).sum() < 40


# --- thresholds


def test_thresholds() -> None:
    assert THRESHOLDS.tolist() == pytest.approx([k / 100 for k in range(1, 100)])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("probability", "reached"),
    [
        (0.0, 0),
        (2.49 / 255, 0),  # 2 / 255 = 0.0078
        (2.51 / 255, 1),  # 3 / 255 = 0.0118
        (50 / 255, 19),  # 0.196
        (51 / 255, 20),  # 0.2 exactly
        (0.5, 50),  # 127.5 is rounded up to 128: 0.502
        (127.4 / 255, 49),  # 127 / 255 = 0.498
        (252.45 / 255, 98),  # 252 / 255 = 0.988
        (253 / 255, 99),
        (1.0, 99),
    ],
)
def test_probabilities_in_255ths(probability: float, reached: int, kind: type[np.floating]) -> None:
    line = (columns(5) * probability).astype(kind)
    counts = match_counts(line, columns(5), 0)
    assert (counts[:, 3] > 0).sum() == reached
    assert (counts[:reached, 3] > 0).all()


def test_best_f_of_pooled_counts_by_hand() -> None:
    counts = np.zeros((99, 4), dtype=np.int64)
    counts[:, 1] = 10
    counts[9] = 5, 10, 5, 20  # P 1/4, R 1/2
    counts[9] += (9, 10, 9, 10)  # a second image: 14 of 30 predicted, 14 of 20 true
    counts[69] = 6, 10, 6, 6
    f, threshold = best_f(counts)
    assert f == pytest.approx(2 * 1 * 0.6 / 1.6)
    assert threshold == 0.7
    counts[69] = 0
    f, threshold = best_f(counts)
    assert f == pytest.approx(2 * (14 / 30) * (14 / 20) / (14 / 30 + 14 / 20))
    assert threshold == 0.1


def test_of_equal_thresholds_the_lowest_is_named() -> None:
    assert best_f(np.full((99, 4), 3)) == (1, 0.01)


def test_nothing_right_is_zero_and_nothing_at_all_is_nan() -> None:
    empty = columns()
    nothing = match_counts(empty.astype(float), empty, 0.1)
    assert nothing.tolist() == [[0, 0, 0, 0]] * 99
    assert all(math.isnan(x) for x in best_f(nothing))
    assert f_of(columns(3), empty, 0.1) == 0
    assert f_of(empty, columns(3), 0.1) == 0


# --- ignored pixels


def test_ignored_pixels_are_neither_predicted_nor_true() -> None:
    label = columns(10, 30)
    label[:, 28:33] = 255
    probability = columns(10, 25, 30).astype(float)
    probability[:, 31] = np.nan  # what stands there is not looked at
    assert match_counts(probability, label, 0)[0].tolist() == [30, 30, 30, 60]


def test_padding_changes_nothing() -> None:
    probability, label = random_image(7)
    padded = np.pad(label, ((3, 20), (40, 1)), constant_values=255)
    guess = np.pad(probability, ((3, 20), (40, 1)), constant_values=0.8)
    np.testing.assert_array_equal(match_counts(guess, padded, 0.05), match_counts(probability, label, 0.05))


def test_an_image_without_valid_pixels_counts_as_nothing() -> None:
    assert not match_counts(np.ones((5, 6)), np.full((5, 6), 255, dtype=np.uint8), 0.1).any()


# --- what is refused


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        match_counts(np.full((4, 4), value), np.zeros((4, 4), dtype=np.uint8), 0.1)


def test_other_labels_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 for edge"):
        match_counts(np.zeros((4, 4)), np.full((4, 4), 2, dtype=np.uint8), 0.1)
    with pytest.raises(ValueError, match="same shape"):
        match_counts(np.zeros((4, 4)), np.zeros((4, 5), dtype=np.uint8), 0.1)
    with pytest.raises(ValueError, match="tolerance"):
        EdgeCounter(-1)
    with pytest.raises(ValueError, match="workers"):
        EdgeCounter(0.1, workers=0)


# --- the counter


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The pool's processes; multiprocessing's tracker of resources is none of them and stays."""
    found = []
    for child in process.children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every image goes to a worker, however small; afterwards none is left."""
    monkeypatch.setattr(bmtas.edges, "_PIXELS_AT_HOME", 0)
    yield
    assert eventually(lambda: not workers_of(psutil.Process()))


def test_small_work_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmtas.edges, "_shared_pool", lambda _: pytest.fail("a pool was started"))
    images = [random_image(seed) for seed in range(3)]
    with EdgeCounter(0.05, workers=4) as counter:
        for image in images:
            counter.add(*image)
        np.testing.assert_array_equal(counter.counts(), sum(match_counts(*image, 0.05) for image in images))


@pytest.mark.usefixtures("no_home")
def test_any_number_of_workers_gives_the_same_counts() -> None:
    images = [random_image(seed) for seed in range(8)]
    expected = sum(match_counts(*image, 0.05) for image in images)
    with EdgeCounter(0.05, 1) as one, EdgeCounter(0.05, 2) as two, EdgeCounter(0.05, 2) as other:
        for number, image in enumerate(images):
            for counter in (one, two, other):
                counter.add(*image)
            if number == 4:  # asked in between, and more comes
                np.testing.assert_array_equal(one.counts(), two.counts())
        assert len(workers_of(psutil.Process())) == 2  # those of two and other are the same
        for counter in (one, two, other):
            np.testing.assert_array_equal(counter.counts(), expected)
        np.testing.assert_array_equal(two.counts(), expected)


@pytest.mark.usefixtures("no_home")
def test_processes_end_with_a_counter_that_nobody_closed() -> None:
    counter = EdgeCounter(0.05, 2)
    counter.add(*random_image(0))
    assert workers_of(psutil.Process())
    del counter  # the fixture looks


@pytest.mark.usefixtures("no_home")
def test_a_workers_error_comes_out() -> None:
    with EdgeCounter(0.05, 2) as counter:
        counter._tolerance = "wide"  # type: ignore[assignment]
        counter.add(*random_image(0))
        with pytest.raises(TypeError):
            counter.counts()


@pytest.mark.usefixtures("no_home")
def test_a_killed_worker_comes_out() -> None:
    with EdgeCounter(0.05, 2) as counter:
        counter.add(*random_image(0))
        counter.counts()
        workers_of(psutil.Process())[0].kill()

        def go_on() -> None:  # that they are gone may take a moment to be noticed
            for _ in range(100):
                counter.add(*random_image(0))

        with pytest.raises(EnvironmentProblem, match="has died"):
            go_on()


def test_a_closed_counter_takes_nothing() -> None:
    counter = EdgeCounter(0.05, 2)
    counter.add(*random_image(0))
    before = counter.counts()
    counter.close()
    counter.close()
    np.testing.assert_array_equal(counter.counts(), before)
    with pytest.raises(ValueError, match="closed"):
        counter.add(*random_image(0))


SCRIPT = """
import signal
import numpy as np
import bmtas.edges
bmtas.edges._PIXELS_AT_HOME = 0
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    counter = bmtas.edges.EdgeCounter(0.05, 2)
    print("go", flush=True)
    while True:
        counter.add(np.full((100, 100), 0.5), np.eye(100, dtype=np.uint8))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("started", [False, True])
def test_workers_end_with_their_parent_and_keep_quiet(tmp_path: Path, number: signal.Signals, started: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "go\n"
        process = psutil.Process(parent.pid)
        assert eventually(lambda: len(workers_of(process)) == 2)
        workers = workers_of(process)
        if started:  # else the signal meets them while they import
            assert eventually(lambda: all(worker.cpu_times().user > 0.3 for worker in workers))
        # Ctrl-C reaches the whole group, as a terminal sends it; a kill only the one it names.
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        _, said = parent.communicate(timeout=60)
    if number == signal.SIGINT:
        assert said.count("Traceback") == 1, said
    assert eventually(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers))
