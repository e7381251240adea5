"""A small tree as an ONNX file and as a folder of stages, and reports made without a measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from export.bench.measure import stats
from export.bench.options import BenchOptions, rules_of
from export.bench.report import Energy, Report, Result, Settings
from export.machine.model import Conditions, Cpu, Identity, System
from export.stages.write import write_split
from export.stopwatch import Rules, judge
from tests.export.stages_tree import tree_model


@pytest.fixture(scope="session")
def tree_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and model.stages of the tree of five tasks, 64x64."""
    folder = tmp_path_factory.mktemp("tree")
    write_split(tree_model(folder / "model.onnx"), folder / "model.stages")
    return folder


@pytest.fixture
def quick() -> BenchOptions:
    """A dozen samples on one thread."""
    return BenchOptions(threads=(1,), rules=rules(12))


def rules(samples: int | None, time_cap_s: float = 0.5) -> Rules:
    return rules_of(warmup_s=0.0, time_cap_s=time_cap_s, spread=0.01, percentiles=(50.0, 90.0), samples=samples)


def identity(model: str = "A processor", **cpu: object) -> Identity:
    told = Cpu(model=model, architecture="x86_64", usable=2).model_copy(update=cpu)
    return Identity(title=f"{model}, {told.usable} CPUs", cpu=told, system=System(kernel="6", python="3.12"))


def result(key: str, latencies_ms: Sequence[float], energy: Energy | None = None) -> Result:
    sample = stats(judge(latencies_ms, (), rules(None)))
    network, runtime = key.split("/")
    return Result(
        key=key,
        network=network,
        runtime=f"{runtime} 1",
        provider="CPUExecutionProvider",
        threads=1,
        input_shape=[1, 3, 64, 64],
        precision="fp32",
        compute=sample,
        energy=energy or Energy(unavailable="no sensor of power was found"),
    )


@pytest.fixture
def report() -> Callable[..., Report]:
    """A function (latencies in ms by key) that gives a report of them, measured on `device`."""

    def made(
        latencies: dict[str, Sequence[float]],
        device: Identity | None = None,
        *,
        energy: Energy | None = None,
        throttled: bool | None = None,
        provider: str = "cpu",
    ) -> Report:
        return Report(
            written_by="bmtas 0",
            date="2026-01-02T03:04:05+00:00",
            command="bmtas bench model.onnx",
            device=device or identity(),
            conditions=Conditions(samples=2, interval_s=0.1, throttled=throttled, throttle_reasons=["gpu: heat"]),
            settings=Settings(provider=provider, threads=[1], batch=None, rates=None, fps=None, rules={}),
            definitions=["compute"],
            results=[result(key, values, energy) for key, values in latencies.items()],
        )

    return made


@pytest.fixture
def noise() -> Callable[..., list[float]]:
    """A function (median, samples, seed) that gives latencies with 2 % of noise."""

    def made(median: float, samples: int = 200, seed: int = 0) -> list[float]:
        return [float(v) for v in median * np.random.default_rng(seed).lognormal(0, 0.02, samples)]

    return made
