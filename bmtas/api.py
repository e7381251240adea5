"""The commands as functions: `bmtas.search(...)`, `bmtas.train(run)`, `bmtas.load(run)`.

What they return and write is what the commands return and write, so a run begun in a notebook is gone on with by the command line and the other
way round. Nothing is printed: pass a `bmtas.progress.Progress`, such as `bmtas.progress.Logged()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmtas.architecture import Architecture
from bmtas.config import Decode, Method, Preset
from bmtas.errors import UsageError, nearest
from bmtas.progress import Progress, Silent
from bmtas.runs import FOUND, NETWORKS, Run, open_run
from bmtas.tasks import Task

if TYPE_CHECKING:
    from bmtas.networks.network import GraphNetwork
    from bmtas.readings import Meter

RUNS = Path("runs")
"""The folder in which runs are kept where no other is named."""


def search(
    budget: str | Sequence[str] = (),
    *,
    data: str | Path = "scenes",
    tasks: Sequence[str] | None = None,
    method: Method | str = Method.BRANCHED,
    backbone: str = "mobilenet_v2",
    preset: Preset | str = Preset.QUICK,
    weights: str | None = None,
    size: tuple[int, int] | None = None,
    costs: Path | str | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    search_settings: Mapping[str, Any] | None = None,
    train_settings: Mapping[str, Any] | None = None,
    decode: Decode | str = Decode.BEST,
    reference: Run | None = None,
    meter: Meter | None = None,
    runs: Path | str = RUNS,
    new: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Run:
    """Search for what the tasks share within `budget` ("9GMAdds", or one per resource) and return the run; an unfinished one like it is gone on with.

    `size` is (height, width), `costs` a file with a cost table of one's own, `reference` the run whose tree the method "permuted" permutes, `settings` are those of the method alone (`--set`), `search_settings` and
    `train_settings` fields of `bmtas.config.SearchSettings` and `TrainSettings` that take the place of the preset's. A budget in a measured resource
    (ms, mJ) needs a `meter`, which measures the network before it is handed over; `bmtas search` on the command line brings its own.

    Raises UsageError for what breaks a rule, BudgetError where no network can be within the budgets, DivergedError where a loss is no number any more.
    """
    from bmtas.parallel import How, join_processes
    from bmtas.planning import Request, plan_search
    from bmtas.workflow import run_search

    told = Silent() if progress is None else progress
    if not isinstance(budget, (str, Sequence)):
        raise UsageError(f"budget {budget!r}: expected a text with its unit, such as '9GMAdds', or several")
    if size is not None and (not isinstance(size, tuple) or [type(side) for side in size] != [int, int]):
        raise UsageError(f"size {size!r}: expected (height, width) in whole pixels, such as (256, 384)")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed!r}: expected a whole number from 0 to {2**32 - 1}")
    plan = plan_search(
        Request(
            data=str(data),
            method=_chosen("method", method, Method),
            tasks=None if tasks is None else list(tasks),
            backbone=backbone,
            budgets=(budget,) if isinstance(budget, str) else tuple(map(str, budget)),
            decode=_chosen("decode", decode, Decode),
            reference=None if reference is None else reference.architecture(FOUND),
            table=None if costs is None else Path(costs),
            preset=_chosen("preset", preset, Preset),
            weights=weights,
            seed=seed,
            size=size,
            own={name: str(value) for name, value in (settings or {}).items()},
            search_overrides=dict(search_settings or {}),
            train_overrides=dict(train_settings or {}),
        )
    )
    measured = [b.text for b in plan.budgets if b.resource in plan.table.measured]
    if measured and meter is None:
        raise UsageError(
            f"budget {', '.join(measured)} is kept by measuring the network found, which needs a `meter` here; the command does it by itself: "
            f"bmtas search --costs {costs} --budget {measured[0]}"
        )
    for note in plan.notes:
        told.note(note)
    return run_search(plan, Path(runs), told, How(join_processes(device)), new=new, meter=meter)


def train(
    run: Run | Path | str | None = None,
    networks: str | Sequence[str] = FOUND,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train networks of a run (found, shared, separate, inherited), measure them, and return the run's summary as `bmtas show --json` has it.

    What is trained already is not trained again; what was stopped goes on. Raises UsageError where the search has not ended.
    """
    from bmtas.parallel import How, join_processes
    from bmtas.summary import summarise_run
    from bmtas.workflow import train_networks

    chosen, names = _run(run), _names(networks)
    train_networks(chosen, names, Silent() if progress is None else progress, How(join_processes(device)), device)
    return summarise_run(chosen)


def evaluate(
    run: Run | Path | str | None = None,
    networks: str | Sequence[str] | None = None,
    *,
    images: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure trained networks of a run (None: all of them) on at most `images` validation images, and return the run's summary.

    Raises UsageError if one is not trained.
    """
    from bmtas.summary import summarise_run
    from bmtas.workflow import evaluate_networks

    chosen = _run(run)
    names = chosen.trained() if networks is None else _names(networks)
    if not names:
        chosen.require_trained(FOUND)
    evaluate_networks(chosen, names, Silent() if progress is None else progress, images=images, device=device)
    return summarise_run(chosen)


def show(run: Run | Path | str | None = None) -> dict[str, Any]:
    """Return what a run has come to: tree, costs in base units, metrics, Delta_m in percent, latencies in ms. Needs no torch."""
    from bmtas.summary import summarise_run

    return summarise_run(_run(run))


def build(architecture: Architecture | Mapping[str, Any] | Path | str, tasks: Sequence[Task]) -> GraphNetwork:
    """Return the untrained network of an architecture, of its JSON or of a file with it; seed torch before for the same one again.

    It maps images (N, 3, H, W) in [-1, 1] to raw predictions by task, (N, channels, H, W) or (N, channels). Raises UsageError where the architecture is
    malformed or of other tasks.
    """
    from bmtas.networks.network import build_network

    if isinstance(architecture, (str, Path)):
        architecture = Architecture.read(Path(architecture))
    elif not isinstance(architecture, Architecture):
        architecture = Architecture.from_json(dict(architecture))
    return build_network(architecture, tasks)


def load(run: Run | Path | str | None = None, network: str = FOUND) -> GraphNetwork:
    """Return a trained network of a run, in evaluation mode; its input and outputs are those of `build`.

    Raises UsageError if it is not trained, or its weights are damaged.
    """
    from bmtas.training import load_network

    chosen, names = _run(run), _names(network)
    if len(names) != 1:
        raise UsageError(f"networks {', '.join(names)}: one is loaded at a time; call it once for each")
    return load_network(chosen.config(), chosen.architecture(names[0]), chosen.require_trained(names[0]))


def _run(run: Run | Path | str | None) -> Run:
    """Return a run itself, of its path or name, or the latest one under `runs`."""
    return run if isinstance(run, Run) else open_run(RUNS, None if run is None else str(run))


def _names(networks: str | Sequence[str]) -> list[str]:
    names = [networks] if isinstance(networks, str) else list(networks)
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"unknown network {name!r}; {nearest(name, NETWORKS)}")
    return names


def _chosen(what: str, value: Any, known: Any) -> Any:
    names = [choice.value for choice in known]
    if value not in names:
        raise UsageError(f"unknown {what} {value!r}; {nearest(str(value), names)}")
    return known(value)
