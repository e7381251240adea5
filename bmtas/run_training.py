"""Training of a run's networks by name, each once, in its folder."""

from __future__ import annotations

import shutil

from bmtas.data.protocol import Dataset
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError
from bmtas.files import atomic_path
from bmtas.parallel import How
from bmtas.progress import Progress
from bmtas.runs import Run
from bmtas.train import Training


def open_run_dataset(run: Run) -> Dataset:
    """Open the data of a run. Raises UsageError if they are no longer what the run began with."""
    config = run.config()
    dataset = open_dataset(config.data)
    if dataset.fingerprint() != config.data_fingerprint:
        raise UsageError(
            f"{config.data} has changed since {run.path} was made, so results would not belong together; begin a new run with "
            "`bmtas search`, or restore the data"
        )
    return dataset


def train_network(run: Run, name: str, progress: Progress, how: How) -> str | None:
    """Train one network of a run, going on where it stopped.

    Returns None, or why nothing had to be trained: it was before, or a network of the same architecture was.
    """
    said = how.parallel.decided(lambda: _trained_already(run, name))
    if said is None:
        Training(run.config(), run.architecture(name), open_run_dataset(run), run.network(name), how).run(progress)
    return said


def _trained_already(run: Run, name: str) -> str | None:
    weights = run.network(name) / "weights.pt"
    if weights.exists():
        return f"{name} is trained already, in {run.network(name)}"
    architecture = run.architecture(name)
    for other in run.trained():
        if run.architecture(other) == architecture:
            # The same seed, data and steps would give the same weights again.
            for file in ("architecture.json", "history.jsonl", "weights.pt"):
                with atomic_path(run.network(name) / file) as temporary:
                    shutil.copyfile(run.network(other) / file, temporary)
            return f"{name} is the same network as {other}, which is trained already; its weights are taken"
    return None
