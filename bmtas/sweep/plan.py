"""What a sweep means to do: its specification, resolved once, and the list of jobs that follows from it. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from bmtas.config import Method
from bmtas.errors import UsageError, nearest
from bmtas.method_options import means_nothing
from bmtas.settings import Settings
from costs.errors import CostError
from costs.units import Resource, parse_budget

_OF_TRAINING_TOO = frozenset(("--device", "--compile"))
"""Those that `bmtas train` has as well."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What decides how many threads the libraries under PyTorch and NumPy take; results depend on it in the last bits."""


class SweepSpec(Settings):
    """Everything that decides the results of a sweep, as written into `sweep.json`.

    `budgets` are those of one job each, of which one may have several resources. `options` are those of `bmtas search`, each with
    its value. `folder` is where the sweep was started: relative paths in options are relative to it. `threads` is that of one job;
    `plugins` are Python files of the user's own that every command loads.
    """

    schema_version: Literal[1] = 1
    written_by: str
    folder: str
    budgets: list[list[str]]
    methods: list[Method]
    seeds: list[int]
    options: list[list[str]]
    plugins: list[str]
    train: bool
    bench: bool
    threads: int

    @property
    def resource(self) -> Resource:
        """The resource whose cost the front is over: that of the first budget, else multiply-adds."""
        return parse_budget(self.budgets[0][0]).resource if self.budgets else Resource.MADDS

    def asks_the_same(self, other: SweepSpec, *, threads: bool) -> bool:
        """Say whether the same was asked for; `threads` says whether their number was asked for, too."""
        unasked = {"written_by", *(() if threads else ("threads",))}
        return self.model_dump(exclude=unasked) == other.model_dump(exclude=unasked)


@dataclass(frozen=True)
class Job:
    """One search and training: of a method within budgets (none: the network costs what it costs), from a seed."""

    name: str
    method: Method
    budgets: tuple[str, ...]
    seed: int


def read_budgets(texts: Sequence[str]) -> list[list[str]]:
    """Return the budgets of each job: one per text, or several for different resources with commas between.

    Raises UsageError where one cannot be read, stands there twice, or names a resource twice.
    """
    try:
        budgets = [[parse_budget(part) for part in text.split(",")] for text in texts]
    except CostError as error:
        raise UsageError(str(error)) from None
    seen: dict[frozenset[tuple[Resource, float]], str] = {}
    for read in budgets:
        text = ",".join(budget.text for budget in read)
        if len({budget.resource for budget in read}) < len(read):
            raise UsageError(f"--budget {text}: a resource is named twice; give each budget its own --budget")
        key = frozenset((budget.resource, budget.value) for budget in read)  # 9GMAdds and 9000MMAdds are one
        if key in seen:
            again = "" if seen[key] == text else f" ({seen[key]} is the same)"
            raise UsageError(f"--budget {text}{again} is given twice; each job is done once, so leave one out")
        seen[key] = text
    return [[budget.text for budget in read] for read in budgets]


def read_methods(names: Sequence[str], *, train: bool) -> list[Method]:
    """Return the methods, before them `single` where networks are trained, for Delta_m is relative to it.

    Raises UsageError for an unknown one, one that is named twice, and `permuted`, which takes another run.
    """
    known = [method.value for method in Method]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown --method {name!r}; {nearest(name, known)}")
        if name == Method.PERMUTED.value:
            raise UsageError(
                "--method permuted deals the tasks of another run's tree anew, so it belongs to one run and to no sweep; use `bmtas search --from`"
            )
    _once("--method", names)
    methods = [Method(name) for name in names]
    return [Method.SINGLE, *methods] if train and Method.SINGLE not in methods else methods


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds. Raises UsageError where one stands there twice."""
    _once("--seed", [str(seed) for seed in seeds])
    return list(seeds)


def _once(option: str, given: Sequence[str]) -> None:
    twice = sorted({text for text in given if list(given).count(text) > 1})
    if twice:
        raise UsageError(f"{option} {twice[0]} is given twice; each job is done once, so leave one out")


def takes_budgets(method: Method) -> bool:
    """Say whether a budget decides what the method comes to; the others cost what they cost, and have one job per seed."""
    if method.wired:
        return method.searches
    return method not in (Method.SINGLE, Method.SHARED)


def job_list(spec: SweepSpec) -> tuple[Job, ...]:
    """Return all jobs: seed by seed, in each the methods without budgets first, then budget by budget all others.

    So what Delta_m is relative to is there before the rest, and a front over all budgets is there after the first seed.
    """
    fixed = [method for method in spec.methods if not takes_budgets(method)]
    others = [method for method in spec.methods if takes_budgets(method)]
    budgets = [tuple(of_job) for of_job in spec.budgets]
    found: list[tuple[Method, tuple[str, ...], int]] = []
    for seed in spec.seeds:
        found += [(method, (), seed) for method in sorted(fixed, key=lambda m: m is not Method.SINGLE)]
        found += [(method, of_job, seed) for of_job, method in product(budgets, others)]
    return tuple(Job(_name(i, *parts), *parts) for i, parts in enumerate(found, start=1))


def _name(number: int, method: Method, budgets: Sequence[str], seed: int) -> str:
    label = "-".join([method.value, *budgets, f"seed{seed}"])
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9.]+', '-', label)}"


def search_arguments(spec: SweepSpec, job: Job, runs: str) -> list[str]:
    """Return what stands after `bmtas` to search for the network of a job; its run folder is made under `runs`."""
    options = [part for option in spec.options if not means_nothing(job.method, option[0]) for part in option]
    budgets = [part for text in job.budgets for part in ("--budget", text)]
    return ["search", "--method", job.method.value, *budgets, "--seed", str(job.seed), *options, "--runs", runs]


def train_arguments(spec: SweepSpec, runs: str) -> list[str]:
    """Return what stands after `bmtas` to train and measure the network found."""
    options = [part for option in spec.options if option[0] in _OF_TRAINING_TOO for part in option]
    return ["train", *options, "--runs", runs]


def left_out(spec: SweepSpec) -> list[str]:
    """Return what of the options and budgets is not given to which methods, in words for the user."""
    notes: dict[str, list[str]] = {}
    for method in spec.methods:
        options = [option[0] for option in spec.options if means_nothing(method, option[0])]
        if options:
            notes.setdefault(f"{', '.join(options)}: not given to {{}}, which would refuse it", []).append(method.value)
        if spec.budgets and not takes_budgets(method):
            notes.setdefault("{}: one job per seed and no budget, for the network costs what it costs", []).append(
                method.value
            )
    return [text.format(", ".join(methods)) for text, methods in notes.items()]


def job_environment(environment: Mapping[str, str], settings: Path, threads: int | None) -> dict[str, str]:
    """Return the environment of a job's processes: that given, with the sweep's own file of settings, and plain output at once.

    `threads` is how many threads libraries take; None leaves it to them.
    """
    fixed = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**environment, **fixed, "BMTAS_CONFIG": str(settings), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
