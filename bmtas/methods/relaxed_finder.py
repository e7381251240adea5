"""The finder of a method that learns architecture parameters of a network that is no tree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from bmtas.files import write_json
from bmtas.methods.finder import Found
from bmtas.methods.relaxed import RelaxedNetwork
from bmtas.methods.spaces import kit_of, open_space
from bmtas.networks.weights import Weights, load_weights
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.runs import Run
from bmtas.searching import Search
from bmtas.settings import Settings
from costs.table import CostTable


class RelaxedFinder(ABC):
    """Searches with the common loop and keeps what was learned; a method makes its relaxed network and derives from it.

    A method names its `settings`, the class of its own ones, which are read into `own`.
    """

    settings: ClassVar[type[Settings]]

    def __init__(self, plan: Plan, how: How) -> None:
        """Prepare everything that does not change. Raises what the data raise, and UsageError for batches not to be shared."""
        self.plan, self.how = plan, how
        self.own = self.settings.model_validate(plan.config.own)
        self.tasks = plan.config.task_list()
        self.kit = kit_of(plan.config)
        self.space = open_space(plan.config.method, self.kit, plan.config.own)
        self.relaxed: RelaxedNetwork
        self._weights: Weights | None = None
        ranges = {b.resource: self.space.reach(plan.table, b.resource) for b in plan.budgets}
        reaches = {resource: high - low for resource, (low, high) in ranges.items()}
        self._search = Search(plan.config, plan.dataset, plan.budgets, reaches, how, self.make_relaxed)

    @abstractmethod
    def make_relaxed(self, weights: Weights | None) -> RelaxedNetwork:
        """Return the relaxed network at the beginning of a search, from pretrained `weights` (None: random)."""

    @abstractmethod
    def derive(self, table: CostTable) -> Found:
        """Return the architecture within the plan's budgets by `table`."""

    @abstractmethod
    def draw(self, run: Run, found: Found) -> None:
        """Draw what is better seen than read into the run's search folder."""

    def before(self, run: Run, progress: Progress) -> None:  # noqa: B027 -- most methods need nothing before
        """Do what comes before the search, going on where it was stopped."""

    def prepare(self, *, begun: bool) -> None:
        """Fetch the weights to begin from; what a checkpoint replaces anyway is not fetched again."""
        self._weights = None if begun else load_weights(self.plan.config.weights, self.kit.backbone)

    def learn(self, run: Run, progress: Progress) -> None:
        """Search to the end, or go on with a search that was stopped, and keep the architecture parameters."""
        self.before(run, progress)
        relaxed = self._search.run(run.search_folder, self._weights, progress)
        assert isinstance(relaxed, RelaxedNetwork)
        self.relaxed = relaxed
        self.how.parallel.decided(lambda: self._keep(run))

    def _keep(self, run: Run) -> None:
        parameters = {name: value.detach().tolist() for name, value in self.relaxed.architecture.items()}
        content = {
            "schema_version": 1,
            "method": self.plan.config.method.value,
            "tasks": [task.name for task in self.tasks],
            "parameters": parameters,
        }
        write_json(run.search_folder / "parameters.json", content)
