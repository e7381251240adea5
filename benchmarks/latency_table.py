"""A latency table measured on this machine, held against whole networks; then searches with budgets in ms by it.

    python benchmarks/latency_table.py [--threads 1 2] [--size 256x256] [--tasks-count 5] [--budgets 5] [--provider cpu]
        [--methods branched random] [--precision fp32] [--work FOLDER] [--out docs/latency_table.md]

For each number of threads a kit of MobileNetV2 is measured and fitted as `bmtas profile --latency` does. Written are the error on
networks that the table was not fitted to, beside that of a prediction in proportion to multiply-adds, the cost of groups side by
side against one after the other (a picture), and for budgets spread over the range of trees what a search under each of them found:
predicted, measured in the search, and measured again afterwards in turn with the all-shared and the separate networks. On a
machine with a GPU, `--provider cuda --out docs/latency_gpu.md` leaves the same report of it. The measurement of a kit goes
on where it was stopped if --work names the same folder; searches begin anew.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from bmtas.config import Method
from bmtas.data.source import open_with_tasks
from bmtas.errors import BudgetError, UsageError
from bmtas.files import write_text
from bmtas.networks.backbone import get_backbone
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.profile import build_table
from bmtas.progress import Progress
from bmtas.runs import FOUND, Run
from bmtas.workflow import run_search
from cli.console import ShownProgress, parse_size
from cli.profile_view import verdict
from costs.reach import budget_range
from costs.table import CostTable
from costs.units import Resource
from export.latency.fit import Fitted
from export.latency.keeping import metered
from export.latency.kit import MANIFEST, read_kit
from export.latency.measure import Effort
from export.latency.meter import DeviceMeter
from export.latency.picture import draw_table
from export.latency.prepare import KitRequest, known_precisions, prepare_kit
from export.latency.setting import Setting
from export.latency.tables import measured_table
from export.machine.identity import identify
from export.machine.sampler import Sampler
from export.stopwatch import in_turn_ratio

MS = Resource.LATENCY_MS
_STEPS = {"warmup_steps": 2, "weight_steps": 6, "batch_size": 2}
"""The searches here are about budgets, not about good trees."""


def table_of(work: Path, setting: Setting, arguments: argparse.Namespace, progress: Progress) -> tuple[Path, Fitted]:
    """Return the measured table of a setting and its file."""
    folder = work / "kit"
    dataset, tasks = open_with_tasks("scenes", None)
    tasks = tasks[: arguments.tasks_count]
    size = parse_size(arguments.size, "--size") or dataset.size
    table = build_table(get_backbone("mobilenet_v2"), tasks, size)
    if not (folder / MANIFEST).exists():
        request = KitRequest(
            table=table,
            tasks=tuple(tasks),
            precisions=known_precisions([arguments.precision]),
            data="scenes",
            held_out=arguments.held_out,
        )
        prepare_kit(folder, request, progress)
    kit = read_kit(folder)
    if kit.counted() != table or arguments.precision not in kit.precisions:
        raise UsageError(f"{folder} holds a kit of another network; give another --work")
    return measured_table(folder, kit, setting, progress, Effort())


def groups_line(table: CostTable) -> str:
    """Return in words what two groups and T groups cost against that many times one, over all layers."""
    costs = table.count_costs(MS)
    count = costs.shape[1]
    told = []
    for groups in dict.fromkeys((2, count)):
        shares = costs[:, groups - 1] / (groups * costs[:, 0])
        told.append(
            f"{groups} groups cost {shares.min():.2f} to {shares.max():.2f} times {groups} times one (mean {shares.mean():.2f})"
        )
    return "; ".join(told)


def searches(path: Path, fitted: Fitted, work: Path, arguments: argparse.Namespace, progress: Progress) -> list[str]:
    """Search under budgets spread over the range of trees; return a Markdown row for each."""
    least, most = budget_range(fitted.table, MS)
    rows = []
    for method, number in itertools.product(arguments.methods, range(arguments.budgets)):
        share = (number + 1) / (arguments.budgets + 1)
        budget = f"{least + share * (most - least):.4g}ms"
        request = Request(
            data="scenes",
            tasks=list(fitted.table.tasks),
            size=tuple(fitted.table.input_size),
            search_size=(64, 64) if method == Method.BRANCHED.value else None,
            train_size=(64, 64),
            budgets=(budget,),
            table=path,
            weights="none",
            method=Method(method),
            search_overrides=dict(_STEPS) if method == Method.BRANCHED.value else None,
        )
        try:
            plan = plan_search(request)
            kept = metered(plan.table, plan.budgets, plan.config.task_list(), progress)
            plan = replace(plan, table=kept.table)
            run = run_search(plan, work / "runs", progress, How.alone("cpu"), new=True, meter=kept.meter)
            assert kept.meter is not None
            rows.append(f"| {method} {_row(budget, run, kept.meter)}")
        except BudgetError as error:
            rows.append(f"| {method} | {budget} | not met: {error} |||||||")
    return rows


def _row(budget: str, run: Run, meter: DeviceMeter) -> str:
    """Measure the network of a run again, in turn with the others, and return its row."""
    trials = run.read_result(run.architecture_path) or {}
    told = trials["trials"][-1][MS.value]
    found = run.architecture(FOUND)
    again = meter(found)[MS]
    timings = meter.last
    shared, separate = (in_turn_ratio(timings[FOUND], timings[name]) for name in ("shared", "separate"))
    within = "yes" if again.upper <= float(budget.removesuffix("ms")) else "no"
    return (
        f"| {budget} | {len(trials['trials'])} | {sum(found.group_counts)} | {told['predicted']:.4g} | {told['measured']:.4g} | {again.median:.4g} "
        f"(at most {again.upper:.4g}) | {within} | {shared.value:.3f} | {separate.value:.3f} |"
    )


def _told(words: Sequence[str]) -> list[str]:
    """Return the options but for the folders of this machine."""
    kept, skip = [], False
    for word in words:
        if not skip and word not in ("--work", "--out"):
            kept.append(word)
        skip = word in ("--work", "--out")
    return kept


def report(arguments: argparse.Namespace, sections: Sequence[str], conditions: str) -> str:
    """Return the page."""
    command = " ".join(["python benchmarks/latency_table.py", *_told(sys.argv[1:])])
    return "\n".join(
        [
            "# A latency table and budgets in ms",
            "",
            f"`{command}`, {date.today().isoformat()}: {identify().title}; {conditions}.",
            f"MobileNetV2, {arguments.tasks_count} tasks of scenes, {arguments.size}, {arguments.precision}, ONNX Runtime, {arguments.provider}.",
            "",
            *sections,
        ]
    )


def main() -> None:
    """Measure, search, write the page and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--tasks-count", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--budgets", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=[Method.BRANCHED.value, Method.RANDOM.value])
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("docs/latency_table.md"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ShownProgress() as progress, Sampler(interval_s=1.0) as sampler:
        work = arguments.work or Path(temporary)
        sections = []
        for threads in arguments.threads:
            setting = Setting(arguments.precision, arguments.provider, threads)
            path, fitted = table_of(work, setting, arguments, progress)
            picture = arguments.out.with_name(f"{arguments.out.stem}_{threads}.png")
            draw_table(fitted.table, fitted.networks, picture)
            sections += [
                f"## {f'{threads} thread' + 's' * (threads > 1) if threads else 'As many threads as the runtime takes'}",
                "",
                *verdict(fitted.table, MS),
                "",
                groups_line(fitted.table),
            ]
            sections += ["", f"![cost of groups, and networks predicted and measured]({picture.name})", ""]
            if arguments.budgets:
                sections += [
                    "| method | budget | measured networks | groups | predicted ms | measured ms | measured again ms | within | of all shared | of separate |",
                    "|---|---|---|---|---|---|---|---|---|---|",
                    *searches(path, fitted, work, arguments, progress),
                    "",
                ]
        throttled = sampler.conditions().throttled
    conditions = {True: "throttled", False: "not throttled", None: "whether it was throttled cannot be told"}[throttled]
    write_text(arguments.out, report(arguments, sections, conditions) + "\n")
    print(arguments.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
