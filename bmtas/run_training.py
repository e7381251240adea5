"""Training of a run's networks by name, each once, in its folder."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from bmtas.checkpoint import belongs, has_checkpoint, load_checkpoint
from bmtas.config import RunConfig
from bmtas.data.downloads.base import Download
from bmtas.data.protocol import Dataset
from bmtas.data.source import open_dataset
from bmtas.errors import BmtasError, UsageError
from bmtas.extras import own_version
from bmtas.files import atomic_path
from bmtas.networks.network import GraphNetwork
from bmtas.parallel import How
from bmtas.progress import Progress
from bmtas.runs import INHERITED, SEPARATE, START, Run, all_runs
from bmtas.training import Training, load_network


def open_run_dataset(run: Run) -> Dataset:
    """Open the data of a run. Raises UsageError if they are no longer what the run began with."""
    config = run.config()
    dataset = open_dataset(config.data)
    if dataset.fingerprint() != config.data_fingerprint:
        raise UsageError(
            f"{config.data} has changed since {run.path} was made{_gone(dataset)}, so results would not belong together; restore the "
            "data, and the same command goes on, or begin a new run with `bmtas search`"
        )
    return dataset


def _gone(dataset: Dataset) -> str:
    """Return which file is missing, for a message, where the data set can tell."""
    absent = dataset.missing() if isinstance(dataset, Download) else []
    return f" ({len(absent)} files are missing, {absent[0]} for one)" if absent else ""


def train_network(run: Run, name: str, progress: Progress, how: How) -> str | None:
    """Train one network of a run, going on where it stopped.

    Returns None, or why nothing had to be trained: it was before, or the same network was, in this run or one beside it.
    """
    said = how.parallel.decided(lambda: _trained_already(run, name))
    if said is None:
        start = _inheritance(run) if name == INHERITED else _beginning(run, name)
        data, folder = open_run_dataset(run), run.network(name)
        Training(run.config(), run.architecture(name), data, folder, how, start).run(progress)
    return said


def separate_network(run: Run, progress: Progress, how: How) -> GraphNetwork:
    """Return the run's networks of single tasks, trained: now, or going on where that stopped, or before."""
    said = train_network(run, SEPARATE, progress, how)
    if said:
        progress.note(said)
    return load_network(run.config(), run.architecture(SEPARATE), run.require_trained(SEPARATE))


def _beginning(run: Run, name: str) -> Callable[[GraphNetwork], None] | None:
    """Return what gives a network the weights that its method has training begin with, None where there are none."""
    path = run.network(name) / START
    if not path.exists():
        return None
    saved = load_checkpoint(path)

    def start(network: GraphNetwork) -> None:
        with belongs(path, f"the network {name!r}"):
            network.load_state_dict(saved["network"])

    return start


def _inheritance(run: Run) -> Callable[[GraphNetwork], None]:
    """Return what gives a network the weights that the search of `run` ended with. Raises UsageError if there are none."""
    method, path = run.config().method, run.search_folder / "checkpoint.pt"
    otherwise = "train without --init search, or search anew with --new"
    if not method.kept_weights or not run.architecture_path.exists():
        raise UsageError(
            f"{run.path} has no search whose weights --init search could take over (its method is {method.value}); train it "
            "without"
        )
    if not path.exists():
        raise UsageError(f"{path}, which holds the weights of the search, is gone; {otherwise}")

    def start(network: GraphNetwork) -> None:
        try:
            importlib.import_module(f"bmtas.methods.{method.folder}.derivation").inherit(run, network)
        except (UsageError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # Not the advice of a checkpoint that a search goes on from: this search has ended.
            raise UsageError(
                f"{path} does not hold the weights of this search ({type(error).__name__}); {otherwise}"
            ) from None

    return start


def _trained_already(run: Run, name: str) -> str | None:
    weights = run.network(name) / "weights.pt"
    if weights.exists():
        return f"{name} is trained already, in {run.network(name)}"
    if name == INHERITED or has_checkpoint(run.network(name) / "checkpoint.pt"):
        return None
    if (run.network(name) / START).exists():
        return None  # equal networks may begin otherwise
    for other in _alike(run):
        for trained in other.trained():
            if (
                trained != INHERITED
                and not (other.network(trained) / START).exists()
                and _made_as_now(other, trained)
                and other.architecture(trained) == run.architecture(name)
            ):
                # The same seed, data and steps would give the same weights again.
                for file in ("architecture.json", "history.jsonl", "weights.pt"):
                    with atomic_path(run.network(name) / file) as temporary:
                        shutil.copyfile(other.network(trained) / file, temporary)
                where = "" if other == run else f" of {other.name}"
                return (
                    f"{name} is the same network as {trained}{where}, which is trained already; its weights are taken"
                )
    return None


def _made_as_now(run: Run, name: str) -> bool:
    """Say whether a network was trained by this version of bmtas; another one may come to other weights."""
    stored = run.read_result(run.network(name) / "architecture.json")
    return stored is not None and stored.get("trained_by") == own_version()


def _alike(run: Run) -> Iterator[Run]:
    """Yield this run and those beside it in which a network of the same architecture would be trained in the same way."""
    config = run.config()
    yield run
    if config.weights not in ("none", "imagenet"):
        return  # a file, which may hold something else by now
    for other in all_runs(run.path.parent):
        # A folder that cannot be read, of a newer version say, is not ours to take from.
        with contextlib.suppress(BmtasError):
            if (
                other.path != run.path
                and other.trained()
                and _decides_training(other.config()) == _decides_training(config)
            ):
                yield other


def _decides_training(config: RunConfig) -> dict[str, Any]:
    """Return all that decides the weights of a trained network, but for its architecture."""
    decisive = {"data_fingerprint", "tasks", "backbone", "weights", "seed", "train_size", "train"}
    settings = config.model_dump(mode="json", include=decisive)
    settings["train"].pop("evaluate_images")
    return settings
