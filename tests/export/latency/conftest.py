"""Networks, templates and kits of the backbone `tiny`, each made once, and a kit that is made up altogether."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import Architecture
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork
from bmtas.profile import build_table
from bmtas.progress import Silent
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from export.interface import Interface
from export.latency.kit import Kit
from export.latency.prepare import KitRequest, prepare_kit, trace
from export.latency.templates import Templates
from export.latency.untrained import untrained_network
from export.latency.visits import Header, Visit, Visits
from export.machine.identity import identify
from export.onnx_file import master_model
from tests.export.latency.made_up import made_up_kit

SIZE = (64, 64)
TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("floor", "box", "ball")),
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="scene", kind=TaskKind.CLASSIFICATION, classes=("indoors", "outdoors")),
)


@pytest.fixture(scope="session")
def tasks() -> tuple[Task, ...]:
    """Three tasks; kits have the first two."""
    return TASKS


@pytest.fixture(scope="session")
def tiny_table() -> CostTable:
    """The counted table of three tasks."""
    return build_table(get_backbone("tiny"), TASKS, SIZE)


@pytest.fixture(scope="session")
def templates(tiny_table: CostTable) -> Templates:
    """The operations of networks for the three tasks."""
    return trace(tiny_table, TASKS)


@pytest.fixture(scope="session")
def traced() -> Callable[[Architecture, Sequence[Task]], tuple[GraphNetwork, Any]]:
    """Return a function that gives the built network of an architecture, and the ModelProto that tracing gives of it; made once each."""
    made: dict[Architecture, tuple[GraphNetwork, Any]] = {}

    def give(architecture: Architecture, chosen: Sequence[Task]) -> tuple[GraphNetwork, Any]:
        if architecture not in made:
            network = untrained_network(architecture, chosen)
            model = master_model(
                network, architecture=architecture, tasks=chosen, size=SIZE, costs={}, interface=Interface()
            )
            made[architecture] = network, model
        return made[architecture]

    return give


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kit]:
    """A kit of two tasks in FP32 and INT8; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared") / "kit"
    table = build_table(get_backbone("tiny"), TASKS[:2], SIZE)
    return folder, prepare_kit(folder, KitRequest(table, TASKS[:2], precisions=("fp32", "int8")), Silent())


@pytest.fixture
def kit_folder(prepared: tuple[Path, Kit], tmp_path: Path) -> Path:
    """A kit that a test may break."""
    folder = tmp_path / "kit"
    shutil.copytree(prepared[0], folder)
    return folder


@pytest.fixture
def twenty_watts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of a machine without a GPU whose processor takes 20 W, by a counter of energy (RAPL) that goes on as time does."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    rapl = tmp_path / "root/sys/class/powercap/intel-rapl:0"
    rapl.mkdir(parents=True)
    counter = rapl / "energy_uj"
    (rapl / "name").write_text("package-0\n")
    (rapl / "max_energy_range_uj").write_text("262143328850\n")
    counter.write_text(f"{0:020d}\n")
    stop, begun = threading.Event(), time.perf_counter()

    def burn() -> None:
        with counter.open("r+") as file:
            while not stop.wait(0.002):
                file.seek(0)
                file.write(f"{int((time.perf_counter() - begun) * 20e6):020d}\n")
                file.flush()

    thread = threading.Thread(target=burn, daemon=True)
    thread.start()
    yield tmp_path / "root"
    stop.set()
    thread.join()


@pytest.fixture(scope="session")
def toy_kit() -> Kit:
    """A kit of three tasks and six layers of which there are no files."""
    return made_up_kit()


@pytest.fixture(scope="session")
def visits_of_times() -> Callable[..., Visits]:
    """Return a function that makes up the visits of a kit whose items take `times` ms, each `passes` times.

    `factors` (pass, item) is what other work did to the machine then, `energies` are in mJ.
    """

    def make(
        times: Mapping[str, float],
        *,
        passes: int = 4,
        factors: Callable[[int, str], float] = lambda number, item: 1.0,
        energies: Mapping[str, float] | None = None,
        runtime: str = "onnxruntime 1.31.1",
        kit: str = "0" * 64,
    ) -> Visits:
        header = Header(
            kit=kit,
            setting="fp32-cpu-1thread",
            runtime=runtime,
            provider="CPUExecutionProvider",
            device=identify().model_dump(mode="json"),
            rail=None if energies is None else "package-0",
        )
        visits = []
        for number in range(passes):
            for item in times:
                factor = factors(number, item)
                visits.append(
                    Visit(
                        number=number,
                        item=item,
                        anchor_ms=[factor * times["net.shared"]] * 2,
                        latency_ms=[factor * times[item]] * 3,
                        energy_mj=None if energies is None or number > 2 else energies[item],
                        anchor_energy_mj=None if energies is None or number > 2 else energies["net.shared"],
                        date=f"2026-01-02T03:04:{number:02d}+00:00",
                    )
                )
        return Visits(header, tuple(visits))

    return make
