"""The run folder that joins the commands: what is where, which run is the latest. Needs no torch.

runs/003-scenes-9GMAdds/
    run.json                    the configuration as resolved
    table.json                  the cost table
    architecture.json           what the search found, with its cost
    search/checkpoint.pt        where the search stands, and checkpoint.previous.pt, where it stood before
        history.jsonl, one line per step; probabilities.json; the pictures tree.png, sharing.png, budget.png, expected.png;
        tensorboard/ if it was asked for
    networks/found/             one folder per trained network (found, shared, separate; inherited is found, with the search's weights):
        architecture.json, weights.pt, start.pt (where the method says how to begin), checkpoint.pt, history.jsonl, metrics.json, predictions.png,
        the exported files (model.onnx, model.int8.onnx, model.stages/, ...) and parity.json, which has their proofs
    bench.json                  latencies of all networks measured together
    lock                        held by the process that searches or trains
"""

from __future__ import annotations

import errno
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import SCHEMA_VERSION, RunConfig
from bmtas.errors import BudgetError, EnvironmentProblem, UsageError
from bmtas.files import first_problem, read_json, write_json, write_text
from bmtas.tables import architecture_costs
from costs.table import CostTable
from costs.units import Resource, format_quantity, parse_budget

RESULT_SCHEMA = 1
"""Version of the JSON files of a run other than its configuration."""

FOUND, INHERITED, SHARED, SEPARATE = "found", "inherited", "shared", "separate"
START = "start.pt"
"""In the folder of a network: the weights that its method has training begin with."""
NETWORKS = (FOUND, INHERITED, SHARED, SEPARATE)
COMPARED = (FOUND, SHARED, SEPARATE)
"""Those that `--network all` stands for: the same training, different architectures."""
_NUMBERED = re.compile(r"^(\d+)-")


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def config(self) -> RunConfig:
        """Read the configuration. Raises UsageError if the folder holds none or one of a newer schema."""
        data = read_json(self.path / "run.json", SCHEMA_VERSION)
        try:
            return RunConfig.model_validate(data)
        except ValidationError as error:
            raise UsageError(
                f"{self.path / 'run.json'} is not a run's configuration: {first_problem(error)}; it was changed after it was "
                "written, restore it"
            ) from None

    def table(self) -> CostTable:
        """Read the cost table."""
        path = self.path / "table.json"
        read_json(path, RESULT_SCHEMA)
        return CostTable.from_json(path.read_text(encoding="utf-8"), str(path))

    @property
    def search_folder(self) -> Path:
        """Where the search keeps its checkpoint and history."""
        return self.path / "search"

    @property
    def architecture_path(self) -> Path:
        """Where the search writes what it found."""
        return self.path / "architecture.json"

    def network(self, name: str) -> Path:
        """Return the folder of the network `name`."""
        return self.path / "networks" / name

    def architecture(self, name: str) -> Architecture:
        """Return the architecture of the network `name`: found (which inherited has, too), shared or separate.

        Raises UsageError naming the command that comes first if the search has not ended.
        """
        config = self.config()
        tasks = [t["name"] for t in config.tasks]
        layers = len(self.table().layers)
        if name == SHARED:
            return BranchedArchitecture.shared(config.backbone, tasks, layers)
        if name == SEPARATE:
            return BranchedArchitecture.separate(config.backbone, tasks, layers)
        if not self.architecture_path.exists():
            if (self.search_folder / "trials.json").exists():
                raise UsageError(
                    f"{self.path}: the search has ended, but no network that was measured is within {', '.join(config.budgets)}; "
                    "`bmtas decode --budget` derives a tree for another budget, or start the same `bmtas search` again when the machine is at rest"
                )
            raise UsageError(
                f"{self.path}: the search has not ended, there is no architecture yet; start the same `bmtas search` again, "
                "it goes on where it stopped"
            )
        return self._checked(Architecture.read(self.architecture_path), config, layers)

    def _checked(self, architecture: Architecture, config: RunConfig, layers: int) -> Architecture:
        """Return the architecture if it is one of this run and within its budgets. Raises UsageError or BudgetError."""
        count = len(architecture.groupings) if isinstance(architecture, BranchedArchitecture) else layers
        found = (architecture.backbone, list(architecture.tasks), count)
        expected = (config.backbone, [t["name"] for t in config.tasks], layers)
        if found != expected:
            raise UsageError(
                f"{self.architecture_path} is of {found[0]} with tasks {found[1]} and {found[2]} layers, but the run is of "
                f"{expected[0]} with tasks {expected[1]} and {expected[2]} layers; it was changed after it was written"
            )
        costs = architecture_costs(self.table(), architecture)
        self._check_stated(costs, config)
        for budget in map(parse_budget, config.budgets):
            cost = costs[budget.resource]
            if cost > budget.value:
                raise BudgetError(
                    f"{self.architecture_path} costs {format_quantity(cost, budget.resource)}, over the run's budget of "
                    f"{budget.text}; it was changed after it was written"
                )
        return architecture

    def _check_stated(self, costs: Mapping[Resource, float], config: RunConfig) -> None:
        """Raise UsageError where the costs or the method in the architecture's file are not those of the run's table and configuration."""
        stated = read_json(self.architecture_path, RESULT_SCHEMA)
        if stated["method"] != config.method.value:
            raise UsageError(
                f"{self.architecture_path} is of --method {stated['method']}, but the run is of {config.method.value}; it was changed after "
                "it was written"
            )
        listed = stated.get("costs", {})
        for resource, cost in costs.items():
            told = listed.get(resource.value, cost) if isinstance(listed, dict) else listed
            if not (isinstance(told, (int, float)) and math.isclose(told, cost, rel_tol=1e-9)):
                raise UsageError(
                    f"{self.architecture_path} states {resource.value} {told}, but by {self.path / 'table.json'} its network costs {cost}; one of "
                    "the two was changed after it was written. Restore it, or search anew with --new"
                )

    def trained(self) -> list[str]:
        """Return the names of the networks that have been trained, found first."""
        return [name for name in NETWORKS if (self.network(name) / "weights.pt").exists()]

    def exported(self) -> list[str]:
        """Return the names of the networks that have been exported, found first."""
        return [name for name in NETWORKS if (self.network(name) / "model.onnx").exists()]

    def require_trained(self, name: str) -> Path:
        """Return the weights of the network `name`. Raises UsageError naming the command that comes first."""
        path = self.network(name) / "weights.pt"
        if not path.exists():
            self.architecture(name)
            flag = "" if name == FOUND else f" --network {name}"
            raise UsageError(f"{self.path}: the network {name!r} is not trained yet; run `bmtas train{flag}` first")
        return path

    def read_result(self, path: Path) -> dict[str, Any] | None:
        """Return a JSON result of this run, None if it does not exist. Raises UsageError on a newer schema."""
        return read_json(path, RESULT_SCHEMA) if path.exists() else None


def create_run(root: Path, label: str, config: RunConfig, table: CostTable) -> Run:
    """Create the next numbered run folder under `root` with its configuration and cost table, whole or not at all.

    Raises EnvironmentProblem if the disk is full or the folder cannot be made.
    """
    building: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=root, prefix=".new-"))
        building.chmod(0o755)  # mkdtemp makes folders private; a run is as readable as any other folder
        write_text(building / "table.json", table.to_json())
        write_json(building / "run.json", config.model_dump(mode="json"))
        path = _placed(building, root, re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-"))
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot create a run folder under {root.resolve()}: {error.strerror or error}; choose another place with "
            "--runs, or make room and permission there"
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return Run(path)


def _placed(building: Path, root: Path, label: str) -> Path:
    """Give a folder the next number and `label` for its name; return its place. Raises OSError."""
    while True:
        number = max((_number(path) for path in root.iterdir()), default=0) + 1
        path = root / f"{number:03d}-{label}"
        try:
            return building.rename(path)
        except OSError as error:  # another process has taken the name in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def all_runs(root: Path) -> list[Run]:
    """Return the runs under `root`, the newest first."""
    if not root.is_dir():
        return []
    runs = [path for path in root.iterdir() if _number(path) and (path / "run.json").exists()]
    return [Run(path) for path in sorted(runs, key=_number, reverse=True)]


def measured_runs(runs: Sequence[Run]) -> list[Run]:
    """Return those of `runs` that have a measured network, the oldest first."""
    return [run for run in reversed(runs) if any((run.network(n) / "metrics.json").exists() for n in run.trained())]


def open_run(root: Path, name: str | None) -> Run:
    """Return the run called `name` (a folder's name under `root`, its number, or a path), or the latest one for None.

    Raises UsageError if there is none; the message names the command that makes one.
    """
    runs = all_runs(root)
    if name is None:
        if not runs:
            raise UsageError(f"there is no run under {root.resolve()}; `bmtas search` makes one, so run it first")
        return runs[0]
    for path in (root / name, Path(name)):
        if (path / "run.json").exists():
            return Run(path)
    numbered = [run for run in runs if name.isdecimal() and _number(run.path) == int(name)]
    if len(numbered) == 1:
        return numbered[0]
    known = ", ".join(run.name for run in reversed(runs))
    raise UsageError(f"no run called {name!r} under {root.resolve()}; there {'is ' + known if known else 'are none'}")


def _number(path: Path) -> int:
    match = _NUMBERED.match(path.name)
    return int(match.group(1)) if match else 0
