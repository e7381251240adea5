"""What a sweep shows: one line per job at work, the front so far, and the table at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.console import emit_json, err, out

if TYPE_CHECKING:
    from bmtas.sweep.conduct import RunningJob, Standing
    from bmtas.sweep.front import SweepFront
    from bmtas.sweep.ledger import JobState, Sweep
    from bmtas.sweep.plan import Job, SweepSpec

_LINE_EVERY_S = 30.0
"""In a log, between two lines about how the jobs stand."""
_WIDE = 160
"""Characters a line from which on the table has room for all costs."""


class ShownSweep:
    """A view that is kept up to date on a terminal, plain lines in a log."""

    def __init__(self, *, quiet: bool) -> None:
        self._console, self._quiet = err(), quiet
        self._live: Live | None = None
        self._front: SweepFront | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> ShownSweep:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the live view away."""
        if self._live is not None:
            self._live.stop()

    def began(self, sweep: Sweep) -> None:
        """Tell where the sweep is and how many jobs it has."""
        threads = sweep.spec.threads
        self.note(f"sweep: {sweep.path}; {len(sweep.jobs)} jobs, {threads} thread{'s' if threads > 1 else ''} each")
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def note(self, text: str) -> None:
        """Say something once."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def standing(self, standing: Standing) -> None:
        """Show how all jobs stand."""
        if self._live is not None:
            lines = [Text(_count(standing), style="bold")]
            lines += [Text(_line(r), no_wrap=True, overflow="ellipsis") for r in standing.running]
            self._live.update(Group(*lines, *([_brief_front(self._front)] if self._front is not None else [])))
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.note(_count(standing))
            for running in standing.running:
                self.note(f"  {_line(running)}")

    def ended(self, job: Job, state: JobState, standing: Standing) -> None:
        """Say that a job has ended."""
        if state.status == "waiting":
            return
        tried = f" after {state.attempts} attempts" if state.attempts > 1 else ""
        reason = f": {state.reason}" if state.status == "failed" else ""
        self.note(f"{job.name} {'is done' if state.status == 'done' else 'failed'}{tried}{reason}; {_count(standing)}")

    def front(self, front: SweepFront) -> None:
        """Keep the front for the live view; in a log, tell it in a line."""
        self._front = front
        if self._live is None and front.rows:
            told = (f"{row.label} {_gain(row)}" for row in front.rows)
            self.note(f"    front, cheapest first: {', '.join(told)}")


def _gain(row: Any) -> str:
    return " ".join((*row.budgets, f"{row.delta_m_percent.mean:+.2f} %"))


def _count(standing: Standing) -> str:
    failed = f", {standing.failed} failed" if standing.failed else ""
    return f"{standing.done} done{failed}, {standing.left} left"


def _line(running: RunningJob) -> str:
    """Return what a job is doing: its command, and what that has said last."""
    again = f", attempt {running.state.attempts}" if running.state.attempts > 1 else ""
    return f"  {running.job.name}{again}  {running.state.step}: {' '.join(running.line.split())}"


def _brief_front(front: SweepFront) -> Table:
    """Return the rows on the front alone, with cost and Delta_m: what there is room for beside the jobs at work."""
    from costs.units import format_quantity

    view = Table(title="front so far", title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False)
    for row in front.rows:
        cost = format_quantity(row.costs[front.resource.value].mean, front.resource)
        view.add_row(
            row.label, ", ".join(row.budgets), cost, f"{row.delta_m_percent.mean:+.2f} %" if row.delta_m_percent else ""
        )
    return view


def front_view(front: SweepFront, *, brief: bool) -> Table:
    """Return the table of all rows, those on the front marked and bold."""
    from bmtas.sweep.front import ON_FRONT, front_caption, front_cells, front_head

    view = Table(title="networks of the sweep", caption=front_caption(front), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    head, rows = front_head(front, brief=brief), front_cells(front, brief=brief)
    order = list(range(len(head)))
    if brief:  # Delta_m before the tasks' metrics, of which a narrow terminal may not show all
        order.insert(len(head) - 1 - len(front.comparison.tasks), order.pop())
    for number in order:
        title, name = head[number], head[number] in ("network", "budget")
        view.add_column(
            title.replace(" ", "\n").replace("_", "_\n") if brief else title,
            justify="left" if name or not number else "right",
            no_wrap=not name,
            min_width=8 if name else None,
            overflow="fold",
        )
    for row in rows:
        told = [row[number].replace(" \u00b1 ", "\n\u00b1") if brief else row[number] for number in order]
        view.add_row(*told, style="bold" if row[0] == ON_FRONT else None)
    return view


def show_result(sweep: Sweep, front: SweepFront | None, json: str | None) -> None:
    """Show the front, or where nothing was trained what was found, and what is where."""
    if json is not None:
        emit_json(_result_json(sweep, front), json)
    if json == "-":
        return
    console = out()
    if front is None:
        console.print(_found_view(sweep))
        return
    console.print(front_view(front, brief=console.width < _WIDE))
    for note in (*front.comparison.notes, *([front.no_picture] if front.no_picture else [])):
        err().print(note, markup=False)
    written = [path for path in ("front.json", "front.md", "front.png") if (sweep.path / path).exists()]
    err().print("written: " + ", ".join(str(sweep.path / path) for path in written), markup=False)


def _result_json(sweep: Sweep, front: SweepFront | None) -> dict[str, Any]:
    from bmtas.sweep.front import front_json

    states = sweep.states()
    return {
        "schema_version": 1,
        "sweep": str(sweep.path),
        "jobs": [
            {
                "name": job.name,
                "method": job.method.value,
                "budgets": list(job.budgets),
                "seed": job.seed,
                **states[job.name].model_dump(
                    mode="json", include={"status", "run", "attempts", "exit_code", "reason", "bench_exit_code"}
                ),
            }
            for job in sweep.jobs
        ],
        "front": None if front is None else front_json(front),
    }


def _found_view(sweep: Sweep) -> Table:
    """Return what was found by the jobs that are done, and what it costs."""
    from bmtas.runs import FOUND
    from bmtas.summary import network_costs
    from bmtas.tables import column_label
    from costs.units import Resource, format_quantity

    view = Table(
        title="found, not trained",
        box=box.SIMPLE_HEAD,
        caption="no quality is measured; without --no-train a sweep trains and compares",
    )
    view.add_column("job")
    finished = sweep.finished_runs()
    costs = [network_costs(run, FOUND) for _, run in finished]
    resources = [r for r in Resource if any(r.value in of_run for of_run in costs)]
    for resource in resources:
        view.add_column(column_label(resource), justify="right")
    for (job, _), of_run in zip(finished, costs, strict=True):
        cells = [format_quantity(of_run[r.value], r) if r.value in of_run else "-" for r in resources]
        view.add_row(job.name, *cells)
    return view


def plan_view(sweep: Sweep | None, spec: SweepSpec, root: Path, json: str | None) -> None:
    """Show the jobs that would be done, and which of them are done already; of those whose files are gone it says so."""
    from bmtas.sweep.conduct import jobs_left
    from bmtas.sweep.plan import job_list

    jobs = job_list(spec)
    left = None if sweep is None else jobs_left(sweep)
    states: dict[str, str] = {} if left is None else {job.name: "done" for job in jobs}
    states |= {name: "gone" if state.status == "done" else state.status for name, state in (left or {}).items()}
    if json is not None:
        listed = [{"name": j.name, "method": j.method.value, "budgets": list(j.budgets), "seed": j.seed} for j in jobs]
        for entry in listed:
            entry["status"] = states.get(str(entry["name"]), "waiting")
        emit_json(
            {
                "schema_version": 1,
                "sweep": None if sweep is None else str(sweep.path),
                **(spec if sweep is None else sweep.spec).model_dump(mode="json"),
                "jobs": listed,
            },
            json,
        )
    if json == "-":
        return
    console = out()
    where = f"a new folder under {root}" if sweep is None else f"{sweep.path}, which is gone on with"
    console.print(
        f"{len(jobs)} jobs, {spec.threads if sweep is None else sweep.spec.threads} threads each, in {where}",
        markup=False,
    )
    for job in jobs:
        state = f"  {states[job.name]}" if states else ""
        console.print(f"  {job.name}{state}", markup=False)
    steps = ["search", *(["train"] if spec.train else []), *(["export"] if spec.bench else [])]
    after = "; bench one after another at the end" if spec.bench else ""
    console.print(
        f"each: {', '.join(steps)}{after}; options {' '.join(p for o in spec.options for p in o) or 'none'}",
        markup=False,
    )
    console.print("nothing was written (--dry-run)")


def show_decoded(name: str, runs: Path, budgets: list[str], points: int, json: str | None, *, quiet: bool) -> None:
    """Show the decoded front of a run, and write it beside its search."""
    from bmtas.runs import open_run
    from bmtas.sweep.decoded import NO_QUALITY, decode_front, decoded_json, write_decoded

    run = open_run(runs, name)
    front = decode_front(run, budgets, points)
    if json is not None:
        emit_json(decoded_json(front), json)
    if json != "-":
        out().print(_decoded_view(front))
        out().print(NO_QUALITY)
    written, no_picture = write_decoded(run, front)
    if no_picture is not None:
        err().print(no_picture, markup=False)
    if not quiet:
        err().print("written: " + ", ".join(map(str, written)), markup=False)


def _decoded_view(front: Any) -> Table:
    from bmtas.tables import column_label
    from costs.units import Resource, format_quantity

    view = Table(title=f"{front.run}: most probable trees by budget", box=box.SIMPLE_HEAD)
    for title in ("budget", column_label(front.resource), "log-probability", "groups per layer", "layers: who shares"):
        view.add_column(
            title, justify="right" if title in (column_label(front.resource), "log-probability") else "left"
        )
    for tree in front.trees:
        first, last = ",".join(tree.budgets[0]), ",".join(tree.budgets[-1])
        view.add_row(
            first if first == last else f"{first} to {last}",
            format_quantity(tree.costs[front.resource.value], Resource(front.resource)),
            "excluded" if tree.log_probability is None else f"{tree.log_probability:.2f}",
            " ".join(map(str, tree.groups)),
            front.where_tasks_part(tree),
        )
    return view
