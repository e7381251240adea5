"""`bmtas sweep`: several budgets, methods and seeds, and which of the networks no other one beats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bmtas.plugins import named_plugins
from cli.options import DEFAULT_RUNS, Json, Quiet, Runs

JOB_CODE = "from cli.sweep import job_main; job_main()"
"""What a job's process runs, with the path of its lock and the command's arguments after it."""
_CHECK_CODE = "from cli.sweep import check_main; check_main()"
"""What runs several commands one after another, with the paths of what is asked and of the answers after it."""
_COMMAND_CODE = "import sys; sys.argv[0] = 'bmtas'; from cli.main import main; main()"
"""What runs a command that nobody has to stop."""
_OWN = ("budget", "method", "seed", "decode", "dry_run", "new", "runs", "json", "quiet", "reference")
"""Parameters of `bmtas search` that a sweep decides itself."""
_NOT_TAKEN = {"decode": "best", "reference": None, "dry_run": False, "new": False}
"""Parameters of `bmtas search` that a sweep cannot take from its table of the settings file, unless they are these."""
_OF_DECODING = {"decode", "budget", "points", "runs", "json", "quiet"}


def sweep_command(
    context: typer.Context,
    budget: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(
            help="A budget of its own for each: 9GMAdds, or with commas several for one job: 9GMAdds,64MiB; repeatable. Three over the "
            "reach if left out."
        ),
    ] = None,
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="As of bmtas search; repeatable. branched if left out."),
    ] = None,
    seed: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            min=0, max=2**32 - 1, help="Repeatable; 0 if left out. Seeds of one method and budget become one row."
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train and measure what was found, or search alone.")
    ] = True,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench", help="Export every network, too, and measure them one after another when all jobs are done."
        ),
    ] = False,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Jobs at once: 1 if left out; with the address of a cluster, as many as it has room for."
        ),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Threads of each job, on which results depend in the last digits; this machine's cores divided by --workers if left "
            "out, kept when the sweep is gone on with.",
        ),
    ] = None,
    ray: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Do the jobs as tasks of Ray: the address of a cluster, or local to start one here."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="So often a job that fails is begun again, unless it would fail again.")
    ] = 2,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the sweep's folder; a number and the data if left out."),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin a new sweep even if there is one like this.")] = False,
    sweeps: Annotated[Path, typer.Option(help="Folder in which sweeps are kept.")] = Path("sweeps"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")] = False,
    decode: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="RUN",
            help="No sweep: of this finished branched search, the most probable tree for every budget of a grid. Nothing is searched or trained.",
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="Budgets of the grid of --decode, where none is given.")] = 12,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Search and train for several budgets, methods and seeds, and tell which networks are on the Pareto front.

    All options of `bmtas search` that are not here (--data, --tasks, --backbone, --preset, --train-steps, --device ...) are passed on to it. The same
    command goes on where a sweep was stopped; jobs that are done are not repeated. Delta_m is relative to separate networks, which are
    trained once per seed. `--runs` is where --decode looks for its run.

    Example: bmtas sweep --budget 7GMAdds --budget 9GMAdds --method branched --method fafs --seed 0 --seed 1
    """
    from bmtas.errors import UsageError
    from cli.configuration import source_of
    from cli.sweep_view import show_decoded

    typed = {p for p in context.params if source_of(context, p) == "COMMANDLINE"}
    told = _own_table(context)
    if "decode" in told:
        raise UsageError("[sweep] decode of the settings file would make every sweep a decoding; type --decode instead")
    if decode is not None and "decode" in typed:
        if context.args or typed - _OF_DECODING:
            raise UsageError(
                "--decode takes --budget, --points, --runs, --json and --quiet alone: nothing is searched or trained for it"
            )
        show_decoded(decode, runs, (budget or []) if "budget" in typed else [], points, json, quiet=quiet)
        return
    if typed & {"points", "runs"} or "runs" in told:
        raise UsageError(
            "--points and --runs go with --decode; a sweep keeps its runs in its own folder (--sweeps), so [sweep] of a settings file has no runs"
        )
    if bench and not train:
        raise UsageError("--bench measures trained networks; leave --no-train out")
    ask = _Ask(context, train=train, bench=bench, threads=threads, workers=workers, quiet=quiet)
    spec = ask.spec(budget, method, seed)
    _run(spec, ask, root=sweeps, name=name, ray=ray, retries=retries, new=new, dry_run=dry_run, json=json)


class _Ask:
    """What was typed and configured, made into a specification."""

    def __init__(
        self, context: typer.Context, *, train: bool, bench: bool, threads: int | None, workers: int | None, quiet: bool
    ) -> None:
        self.train, self.bench, self.threads, self.workers, self.quiet = train, bench, threads, workers, quiet
        self.of_search = {} if context.parent is None else (context.parent.default_map or {}).get("search", {})
        self.options = _passed_on(context, self.of_search)
        self.plugins = [str(path) for path in named_plugins()]

    @property
    def not_taken(self) -> list[str]:
        """What of the table of `bmtas search` in the settings file a sweep has no use for, in words for the user."""
        names = [name for name, without in _NOT_TAKEN.items() if self.of_search.get(name, without) != without]
        shown = ", ".join({"reference": "from"}.get(name, name) for name in names)
        return [f"not taken from [search] of the settings file: {shown}"] if names else []

    def spec(self, budgets: list[str] | None, methods: list[str] | None, seeds: list[int] | None) -> Any:
        """Return the specification, with those of `bmtas search` in the settings file where none is given; its budgets may be empty."""
        from bmtas.errors import UsageError
        from bmtas.extras import own_version
        from bmtas.method_options import means_nothing
        from bmtas.sweep.plan import SweepSpec, check_seeds, read_budgets, read_methods

        of_one = self.of_search.get("budget")  # a search has all its budgets at once
        budgets = budgets or ([",".join(of_one)] if of_one else [])
        chosen = read_methods(methods or [self.of_search.get("method", "branched")], train=self.train)
        seeds = seeds or [int(self.of_search.get("seed", 0))]
        if any(option[0] == "--set" for option in self.options):
            taking = [method for method in chosen if not means_nothing(method, "--set")]
            if len(taking) != 1:
                raise UsageError(
                    f"--set is a setting of one method, and {'none' if not taking else len(taking)} of those of the sweep "
                    "have settings of their own; sweep one such method, and put runs together with `bmtas compare`"
                )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return SweepSpec(
            written_by=own_version(),
            folder=str(Path.cwd()),
            budgets=read_budgets(budgets),
            methods=chosen,
            seeds=check_seeds(seeds),
            options=self.options,
            plugins=self.plugins,
            train=self.train,
            bench=self.bench,
            threads=self.threads or max(1, cores // (self.workers or 1)),
        )


def _passed_on(context: typer.Context, configured: dict[str, Any]) -> list[list[str]]:
    """Return the options for `bmtas search`, each with its value, in the order of its help, typed or from its table of the settings file.

    Raises what click does for an unknown option or a value that it does not take.
    """
    from bmtas.errors import UsageError
    from cli.configuration import settle, source_of
    from cli.search import CONTRADICTING, search_command

    alone = typer.Typer()
    alone.command()(search_command)
    command: Any = typer.main.get_command(alone)
    kept = {key: value for key, value in configured.items() if key not in _OWN}
    read = command.make_context(context.command_path, list(context.args), default_map=kept)
    settle(read, CONTRADICTING)
    found = []
    for parameter in command.params:
        if source_of(read, parameter.name) not in ("COMMANDLINE", "DEFAULT_MAP"):
            continue
        if parameter.name in _OWN:
            raise UsageError(f"{parameter.opts[0]} means nothing to a sweep, which sets it for each job; leave it out")
        value = read.params[parameter.name]
        if parameter.is_flag:
            found += [[parameter.opts[0]]] if value else []
        else:
            found += [[parameter.opts[0], str(one)] for one in (value if parameter.multiple else [value])]
    return found


def _own_table(context: typer.Context) -> dict[str, Any]:
    """Return what the settings file says for sweeps alone, without what stands at its top for many commands."""
    from cli.configuration import find_configuration, read_toml

    path = None if context.parent is None else find_configuration(context.parent.params.get("config"))
    table: dict[str, Any] = {} if path is None else read_toml(path).get("sweep", {})
    return table


def _run(
    spec: Any,
    ask: _Ask,
    *,
    root: Path,
    name: str | None,
    ray: str | None,
    retries: int,
    new: bool,
    dry_run: bool,
    json: str | None,
) -> None:
    from bmtas.sweep.conduct import run_sweep
    from bmtas.sweep.ledger import create_sweep
    from bmtas.sweep.on_ray import check_address
    from cli.sweep_view import ShownSweep, plan_view, show_result

    address = None if ray is None else check_address(ray)
    with ShownSweep(quiet=ask.quiet) as shown:
        spec, sweep = _resolved(spec, ask, root, name, new, shown)
        if dry_run:
            plan_view(sweep, spec, root, json)
            return
        if sweep is None:
            sweep = create_sweep(root, spec, _label(spec), name)
        shown.began(sweep)
        front = run_sweep(
            sweep, lambda: _runner(sweep, address, ask.workers, retries, shown), shown, JOB_CODE, retries=retries
        )
    show_result(sweep, front, json)
    _raise_failed(sweep)


def _resolved(spec: Any, ask: _Ask, root: Path, name: str | None, new: bool, shown: Any) -> tuple[Any, Any]:
    """Return the specification with its budgets, and the sweep that is gone on with; None for a new one, whose options are checked first."""
    from bmtas.errors import UsageError
    from bmtas.sweep.ledger import check_name, find_sweep
    from bmtas.sweep.plan import left_out, takes_budgets
    from bmtas.sweep.preflight import check_jobs, check_start, with_budgets

    check_name(root, name)
    for note in ask.not_taken:
        shown.note(note)
    if not spec.budgets and any(takes_budgets(method) for method in spec.methods):
        spec, note = with_budgets(spec, check_start(spec, _COMMAND_CODE))
        shown.note(note)
    sweep = None if new else find_sweep(root, spec, name, threads=ask.threads is not None)
    if sweep is not None:
        return spec, sweep
    if new and name is not None and (root / name).exists():
        raise UsageError(f"{root / name} is there already; give the new sweep another --name")
    for note in (*check_jobs(spec, _CHECK_CODE), *left_out(spec)):
        shown.note(note)
    return spec, None


def _runner(sweep: Any, address: str | None, workers: int | None, retries: int, shown: Any) -> Any:
    from bmtas.sweep.local import LocalRunner
    from bmtas.sweep.on_ray import HERE, RayRunner

    if address is None:
        return LocalRunner(workers or 1)
    most = workers or 1 if address == HERE else workers
    made = RayRunner(address, sweep.path.resolve(), workers=most, threads=sweep.spec.threads, retries=retries)
    shown.note(f"Ray is at work on: {', '.join(made.machines)}")
    return made


def _raise_failed(sweep: Any) -> None:
    """Raise SweepFailed, naming the jobs that have failed, if there are any."""
    from bmtas.sweep.conduct import SweepFailed, failed_jobs

    failed = failed_jobs(sweep)
    if not failed:
        return
    reasons: dict[str, list[str]] = {}
    for job, state in failed:
        reason = state.reason or f"bench ended with exit code {state.bench_exit_code}"
        reasons.setdefault(reason, []).append(job.name)
    told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    raise SweepFailed(f"{len(failed)} of {len(sweep.jobs)} jobs failed; the same command begins them again. {told}")


def _label(spec: Any) -> str:
    """Return what a sweep's folder is called after its number: the data."""
    data = dict(option for option in spec.options if len(option) == 2).get("--data", "scenes")
    return Path(data).stem


def check_main() -> None:
    """Run commands one after another, and write the exit code of each with what it has said; others than 0 and 6 end it."""
    import contextlib
    import io
    import json
    import sys

    from bmtas.errors import BudgetError
    from cli.main import run

    asked, answers = map(Path, sys.argv[1:])
    sys.argv = ["bmtas"]
    told: list[tuple[int, str]] = []
    for arguments in json.loads(asked.read_text(encoding="utf-8")):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = run(arguments)
        told.append((code, said.getvalue()))
        if code not in (0, BudgetError.exit_code):
            break
    answers.write_text(json.dumps(told), encoding="utf-8")


def job_main() -> None:
    """Run one command of a job: it ends with the sweep that has started it, and works in the job's folder alone."""
    import sys

    from bmtas.errors import BmtasError
    from bmtas.sweep.guard import end_with_parent, take_folder
    from cli.console import report_error
    from cli.main import main

    end_with_parent()
    lock = Path(sys.argv.pop(1))
    sys.argv[0] = "bmtas"
    try:
        held = take_folder(lock)
    except BmtasError as error:
        report_error(str(error))
        sys.exit(error.exit_code)
    try:
        main()
    finally:
        held.release()
