"""`bmtas search`: which encoder layers do the tasks share, under a budget?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cli.options import DEFAULT_RUNS, Compile, Device, Json, Quiet, Runs, choices, completing

CONTRADICTING = (("resource_weight", "no_resource_term"), ("no_resizing", "search_size"))
"""Parameters of which one alone can hold."""


def search_command(
    context: typer.Context,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="9GMAdds, 4.5MParams or 64MiB, or with --costs 12ms or 40mJ; may be given once per resource."
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="scenes (generated, nothing to download), a manifest (.yaml), the folder of a data set as it is downloaded, or "
            "planted (for checks).",
            autocompletion=completing("scenes", "planted"),
        ),
    ] = "scenes",
    method: Annotated[
        str,
        typer.Option(
            help="branched (the paper's search); other searches: mtl-nas, automtl, dynamic (after Choi & Im; its reduction, squeeze "
            "loss and normalisation are our own choice); fixed sharing: cross-stitch, nddr-cnn, mtan, sluice; or a baseline: "
            "single, shared, vanilla, random, permuted, fafs, bmn.",
            autocompletion=choices("Method"),
        ),
    ] = "branched",
    own: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--set",
            help="NAME=VALUE: a setting of the method alone, such as entropy_weight=0 of mtl-nas (docs/methods.md lists them); repeatable.",
        ),
    ] = None,
    reference: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--from",
            help="The run whose tree --method permuted permutes; its budget is kept unless --budget gives another.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of the data, with commas; all if left out (of scenes: the five of PASCAL-Context)."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="mobilenet_v2, resnet50, vgg16, a classifier of torchvision (resnet18, ...), or tiny (for checks).",
            autocompletion=completing("mobilenet_v2", "resnet50", "vgg16", "resnet18", "tiny"),
        ),
    ] = "mobilenet_v2",
    table: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(
            "--costs",
            "--table",
            help="A cost table that was measured (`bmtas profile --latency`) or is your own, as JSON; its resources (latency in "
            "ms, say) are added to the counted ones.",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="quick (minutes on 2 cores), standard (for a GPU), paper.",
            autocompletion=choices("Preset"),
        ),
    ] = "quick",
    weights: Annotated[
        str | None, typer.Option(help="imagenet, none (random), or a file; the preset's choice if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides everything that is random.")] = 0,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH at which the network is deployed; the data's own if left out.")
    ] = None,
    search_size: Annotated[Optional[str], typer.Option(help="HEIGHTxWIDTH of the images during the search.")] = None,  # noqa: UP045
    train_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the images during training and evaluation.")
    ] = None,
    warmup_steps: Annotated[Optional[int], typer.Option(help="Steps of the warm-up, per task.")] = None,  # noqa: UP045
    search_steps: Annotated[Optional[int], typer.Option(help="Weight steps of the search, per task.")] = None,  # noqa: UP045
    train_steps: Annotated[Optional[int], typer.Option(help="Steps of `bmtas train` on this run.")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(help="Images per step, in search and training.")] = None,  # noqa: UP045
    search_learning_rate: Annotated[
        float | None, typer.Option(help="First learning rate of the weights during the search.")
    ] = None,
    train_learning_rate: Annotated[float | None, typer.Option(help="First learning rate of `bmtas train`.")] = None,
    estimator: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="soft (the paper: all candidates, mixed) or sampled (one candidate per task and layer)."),
    ] = None,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Of search and training: fp32, or bf16: convolutions in half precision; weights and losses stay float32."
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Less memory for more time: layers are computed twice.")
    ] = False,
    accumulate: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Compute each batch, in search and training, in so many parts: less memory, each normalised by itself."
        ),
    ] = None,
    resource_weight: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Instead of steering by a budget, a fixed weight of the loss per expected GMAdds (paper, Eq. 4)."
        ),
    ] = None,
    no_resource_term: Annotated[
        bool, typer.Option("--no-resource-term", help="Let the tasks alone decide (the paper's ablation).")
    ] = False,
    no_resizing: Annotated[
        bool, typer.Option("--no-resizing", help="Search on images of the deployed size (the paper's ablation).")
    ] = False,
    cost_estimate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="exact, or published: the paper's estimator, which over-counts; for comparison."),
    ] = None,
    decode: Annotated[
        str,
        typer.Option(help="best (the most probable tree within the budget) or argmax (the paper; keeps no budget)."),
    ] = "best",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Begin a new run even if one like this has not ended.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Keep the history for TensorBoard, too, in search/tensorboard.")
    ] = False,
    compiled: Compile = False,
    device: Device = "auto",
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Search for what tasks share under a budget, by default the tree of shared layers, and start a run folder with it.

    The same command goes on where a search was stopped. Other searches, networks that share by a fixed rule and baselines (`--method`) are
    trained, evaluated, exported and measured by the same commands.

    Example: bmtas search --data examples/ccp.yaml --budget 3GMAdds
    """
    from dataclasses import replace

    from bmtas.config import Decode, Method, Preset
    from bmtas.data.check import check_labels
    from bmtas.device import pick_device
    from bmtas.errors import UsageError, nearest
    from bmtas.files import read_json
    from bmtas.parallel import How, join_processes
    from bmtas.planning import Request, plan_search
    from bmtas.ranks import speaks
    from bmtas.runs import FOUND, open_run
    from bmtas.workflow import run_search
    from cli.configuration import from_the_file, settle
    from cli.console import ShownProgress, emit_json, out, parse_settings, parse_size
    from cli.next_step import Following, say_next
    from cli.plan_view import show_plan
    from cli.show import render_run
    from export.latency.keeping import metered

    for option, value, known in (
        ("--preset", preset, Preset),
        ("--decode", decode, Decode),
        ("--method", method, Method),
    ):
        if value not in [choice.value for choice in known]:
            raise UsageError(f"unknown {option} {value!r}; {nearest(value, [choice.value for choice in known])}")
    settle(context, CONTRADICTING)
    resource_weight, no_resource_term = (context.params[name] for name in CONTRADICTING[0])
    no_resizing, search_size = (context.params[name] for name in CONTRADICTING[1])
    other = None if reference is None else open_run(runs, reference)
    request = Request(
        data=data,
        method=Method(method),
        reference=None if other is None else other.architecture(FOUND),
        tasks=[name.strip() for name in tasks.split(",")] if tasks else None,
        backbone=backbone,
        budgets=tuple(budget or (() if other is None else other.config().budgets)),
        table=table,
        preset=Preset(preset),
        decode=Decode(decode),
        no_resizing=no_resizing,
        weights=weights,
        seed=seed,
        size=parse_size(size, "--size"),
        search_size=parse_size(search_size, "--search-size"),
        train_size=parse_size(train_size, "--train-size"),
        own=parse_settings(own),
        search_overrides={
            "warmup_steps": warmup_steps,
            "weight_steps": search_steps,
            "batch_size": batch_size,
            "learning_rate": search_learning_rate,
            "estimator": estimator,
            "precision": precision,
            "activation_checkpointing": activation_checkpointing or None,
            "accumulate": accumulate,
            "resource_term": "weight" if resource_weight is not None else "none" if no_resource_term else None,
            "resource_weight": resource_weight,
            "cost_estimate": cost_estimate,
        },
        train_overrides={
            "accumulate": accumulate,
            "precision": precision,
            "steps": train_steps,
            "batch_size": batch_size,
            "learning_rate": train_learning_rate,
        },
        usual=from_the_file(context),
    )
    with ShownProgress(quiet=quiet or not speaks()) as progress:
        plan = plan_search(request)
        for note in plan.notes:
            progress.note(note)
        if dry_run:
            pick_device(device)
            if speaks():
                kept = metered(plan.table, plan.budgets, plan.config.task_list(), progress, measure=False)
                plan = replace(plan, table=kept.table)
                check_labels(plan.dataset, plan.config.task_list(), progress)
                show_plan(plan, json)
            return
        how = How(join_processes(device), compile=compiled, tensorboard=tensorboard)
        meters: list[Any] = []  # of the first process alone, for processes that measure at once slow each other down

        def table_to_keep() -> Any:
            kept = metered(plan.table, plan.budgets, plan.config.task_list(), progress)
            meters.append(kept.meter)
            return kept.table

        plan = replace(plan, table=how.parallel.decided(table_to_keep))
        run = run_search(plan, runs, progress, how, new=new, meter=meters[0] if meters else None)
        how.parallel.leave()
    if not speaks():
        return
    if json is not None:
        emit_json({"run": str(run.path), **read_json(run.architecture_path, 1)}, json)
    if json != "-":
        render_run(run, out())
    say_next(Following("train"), run, None, runs, silent=quiet or json == "-")
