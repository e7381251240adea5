"""`bmtas bench`: latency and energy, here or on the edge device."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import DefaultGroup, default_group
from cli.options import DEFAULT_RUNS, Json, Quiet, RunName, Runs

if TYPE_CHECKING:
    from export.bench.options import BenchOptions

bench_app = default_group(
    name="bench", help="Measure latency and energy of exported networks; compare two measurements."
)

_EPILOG = "Two measurements are compared by: bmtas bench compare A.json B.json (bmtas bench compare --help)"


@bench_app.command(DefaultGroup.DEFAULT, hidden=True, epilog=_EPILOG)
def bench_command(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="ONNX files, engines, .pt2 programs, folders of OpenVINO or stages; model.onnx of the run's networks if left out."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="found, shared, separate, or all; every exported one if left out."),
    ] = None,
    eager: Annotated[
        bool, typer.Option("--eager/--no-eager", help="Measure PyTorch eager in turn with ONNX Runtime.")
    ] = True,
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt: where ONNX Runtime runs.")] = "cpu",
    threads: Annotated[
        str, typer.Option(help="Threads per operator on the CPU, 0 lets the runtimes choose; several, as 1,2, in turn.")
    ] = "0",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per inference, for files exported with --dynamic batch.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="How often each task runs, as semseg=1,depth=1/5; for a folder of stages.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Frames at this pace with pauses in between; tells latencies from their due times, and misses."
        ),
    ] = None,
    warmup: Annotated[
        str, typer.Option(help="Seconds, or auto: until two windows agree within 2 %, a third of the cap at most.")
    ] = "auto",
    time_cap: Annotated[
        float, typer.Option("--time-cap", "--duration", help="Seconds of measuring, at most; warm-up comes before.")
    ] = 15.0,
    spread: Annotated[
        float, typer.Option(help="Stop when the medians of windows spread by less: 0.01 is one per cent.")
    ] = 0.01,
    percentiles: Annotated[str, typer.Option(help="Percentiles that the sample must support, as 50,90,99.")] = "50,90",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Measured runs of each candidate, instead of stopping by the rules.")
    ] = None,
    marginal: Annotated[
        bool, typer.Option("--marginal", help="Measure subsets of the tasks too: what does each task cost?")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Tell where the time goes, by module and task, from the runtime's profiler."),
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help="End with code 6 if so, as 'p99>20ms', 'end_to_end.median>=8ms' or 'misses>0'."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 7 if the measurement is unstable.")] = False,
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure latency and energy: warm-up by agreement, windows until they are steady, intervals, percentiles that the sample supports.

    In a run's folder, ONNX Runtime and PyTorch eager are measured in turn. On a device without PyTorch, name the ONNX file: bmtas bench
    model.onnx

    Example: bmtas bench model.onnx --percentiles 50,90,99 --time-cap 60
    """
    from bmtas.runs import open_run
    from cli.next_step import Following, say_next
    from export.bench.gates import parse_gate
    from export.bench.options import BenchOptions, parse_numbers, parse_threads, parse_warmup, rules_of
    from export.predict import parse_rates
    from export.stages.schedule import Schedule

    gates = [parse_gate(text) for text in fail_if or ()]
    asked = parse_numbers(percentiles, "--percentiles")
    options = BenchOptions(
        provider=provider,
        threads=parse_threads(threads),
        batch=batch,
        rates=None if rates is None else Schedule.parse(parse_rates(rates)),
        fps=fps,
        marginal=marginal,
        layers=layers,
        rules=rules_of(
            warmup_s=parse_warmup(warmup),
            time_cap_s=time_cap,
            spread=spread,
            percentiles=(*asked, *(gate.percentile for gate in gates if gate.percentile is not None)),
            samples=samples,
        ),
    )
    report = _measured(files, network, options, eager, run, runs, quiet, _repeated(context))
    if csv is not None or markdown is not None:
        _write_tables(report, csv, markdown)
    _show(report, json)
    _judge(report, gates, strict)
    if not files:
        following = Following("report", run_is_argument=True)
        say_next(following, open_run(runs, run), run, runs, silent=quiet or json == "-")


def _measured(
    files: list[Path] | None,
    network: str | None,
    options: BenchOptions,
    eager: bool,
    run: str | None,
    runs: Path,
    quiet: bool,
    command: str,
) -> Any:
    """Measure what was asked for; a run's report is written into its folder."""
    from bmtas.errors import UsageError
    from bmtas.files import write_json
    from bmtas.runs import open_run
    from cli.console import ShownProgress
    from export.bench.measure import bench
    from export.bench.workers import eager_available

    chosen = None if files else open_run(runs, run)
    if chosen is None:
        for path in files or ():
            if not path.exists():
                raise UsageError(f"{path} does not exist; `bmtas export` writes exported networks")
        names = [path.name for path in files or ()]
        targets = {path.name if names.count(path.name) == 1 else str(path): path for path in files or ()}
    else:
        targets = _of_run(chosen, network)
    with ShownProgress(quiet=quiet) as progress:
        beside: dict[str, tuple[Path, str]] = {}
        if eager and chosen is not None:
            if options.batch not in (None, 1):
                progress.note("PyTorch eager is measured with one image, so it is left out")
            elif eager_available():
                beside = {name: (chosen.path, name) for name in targets}
            else:
                progress.note("PyTorch is not installed here; eager is left out")
        report = bench(targets, eager=beside, options=options, progress=progress, command=command)
    if chosen is not None:
        write_json(chosen.path / "bench.json", report.to_json())
    return report


def _of_run(run: Any, network: str | None) -> dict[str, Path]:
    from bmtas.errors import UsageError
    from bmtas.runs import FOUND
    from cli.networks import chosen_networks

    names = chosen_networks(network) if network else run.exported()
    if not names:
        run.require_trained(FOUND)
    for name in names or [FOUND]:
        if name not in run.exported():
            raise UsageError(
                f"{run.path}: the network {name!r} is not exported yet; run `bmtas export --network {name}` first"
            )
    return {name: run.network(name) / "model.onnx" for name in names}


def _repeated(context: typer.Context) -> str:
    """Return one line that repeats the measurement: the arguments, and the options that are not the default ones."""
    words = ["bmtas", "bench"]
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params.get(parameter.name or "")
        if name in ("json", "csv", "markdown", "quiet") or value is None or value == parameter.default:
            continue
        if parameter.param_type_name == "argument":
            words += [str(path) for path in value]
        elif isinstance(value, bool):
            flags = parameter.opts if value else parameter.secondary_opts
            words += flags[:1]
        else:
            for each in value if isinstance(value, (list, tuple)) else [value]:
                words += [parameter.opts[0], f"{each:g}" if isinstance(each, float) else str(each)]
    return shlex.join(words)


def _write_tables(report: Any, csv: Path | None, markdown: Path | None) -> None:
    from bmtas.files import write_text
    from export.bench.tables import as_csv, as_markdown

    if csv is not None:
        write_text(csv, as_csv(report))
    if markdown is not None:
        write_text(markdown, as_markdown(report))


def _show(report: Any, json: str | None) -> None:
    from cli.bench_view import show_report
    from cli.console import emit_json, out

    if json is not None:
        emit_json(report.to_json(), json)
    if json != "-":
        show_report(report, out())


def _judge(report: Any, gates: list[Any], strict: bool) -> None:
    """Raise UnstableError or BudgetError for what was asked of the measurement and is not there."""
    from bmtas.errors import BudgetError
    from export.bench.gates import broken
    from export.stopwatch import UnstableError

    unmet, failures = report.unmet(), broken(gates, report)
    if strict and unmet:  # before the gates: a number that is not stable is within no limit and beyond none
        beside = f". By that measurement {'; '.join(failures)}" if failures else ""
        raise UnstableError(
            f"{'; '.join(unmet)}. Measure longer (--time-cap), allow more (--spread), or quieten and cool the machine{beside}"
        )
    if failures:
        raise BudgetError("; ".join(failures))


@bench_app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="A result that bmtas bench wrote with --json, or a run's bench.json.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    force: Annotated[bool, typer.Option("--force", help="Compare although devices or settings differ.")] = False,
    json: Json = None,
) -> None:
    """Compare two measurements: the ratio of their medians with its interval, and whether they differ clearly.

    Measurements of unlike devices or settings are refused.

    Example: bmtas bench compare before.json after.json
    """
    from cli.bench_view import show_comparison
    from cli.console import emit_json, out
    from export.bench.compare import compare_reports, to_json
    from export.bench.report import read_report

    found = compare_reports(read_report(first), read_report(second), force=force)
    if json is not None:
        emit_json(to_json(found), json)
    if json != "-":
        show_comparison(found, out())
