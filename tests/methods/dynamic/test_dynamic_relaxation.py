"""The relaxed network of dynamic topologies: what each phase changes, what is rewound to, and a search from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bmtas.config import PRESETS, Method, Optimiser, Preset
from bmtas.data.batches import Batch
from bmtas.extras import require
from bmtas.files import read_lines
from bmtas.losses import task_loss
from bmtas.methods.dynamic.derivation import reduce_within
from bmtas.methods.dynamic.finder import TopologyFinder
from bmtas.methods.dynamic.losses import scalars_of
from bmtas.methods.dynamic.relaxation import LINKS, CentralNetwork, RelaxedTopology
from bmtas.methods.dynamic.settings import OWN, SEARCH, TRAIN, Own
from bmtas.methods.dynamic.space import TopologySpace, open_space
from bmtas.methods.finder import choose_finder
from bmtas.methods.relaxed import Moment
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit
from bmtas.parallel import How, Parallel
from bmtas.planning import Plan, Request, plan_search
from bmtas.profile import build_table
from bmtas.progress import Silent
from bmtas.schedule import ARCH, WARMUP, WEIGHTS, Step
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

TASKS = (Task(name="normals", kind=TaskKind.NORMALS, loss_weight=3.0), Task(name="depth", kind=TaskKind.DEPTH))
SIZE = (32, 32)


@pytest.fixture(scope="module")
def tiny() -> tuple[TopologySpace, CostTable]:
    kit = Kit(get_backbone("tiny"), {task.name: task for task in TASKS})
    space = open_space(Method.DYNAMIC, kit, {"flow": 2})
    return space, with_operations(build_table(kit.backbone, TASKS, SIZE), space, kit)


def relaxed_of(tiny: tuple[TopologySpace, CostTable], **own: object) -> RelaxedTopology:
    torch.manual_seed(0)
    settings = PRESETS[Preset.QUICK].search.model_copy(update={"optimiser": Optimiser.ADAMW})
    network = CentralNetwork(tiny[0], TASKS, None).train()
    return RelaxedTopology(network, Own.model_validate(own), TASKS, settings, Parallel(torch.device("cpu")), tiny[1])


def batch(seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(4, 3, *SIZE, generator=generator), dim=1)
    labels = {"normals": normals, "depth": torch.rand(4, *SIZE, generator=generator)}
    return Batch(torch.randn(4, 3, *SIZE, generator=generator), labels, ("a", "b", "c", "d"))


def moment(phase: str) -> Moment:
    return Moment(Step(phase, 0, True), 0.0, 1.0, torch.Generator())


@pytest.mark.parametrize(
    ("phase", "which", "shared_change"), [(WARMUP, "heads", True), (WEIGHTS, "heads", False), (WEIGHTS, "all", True)]
)
def test_weights_that_a_phase_changes(
    tiny: tuple[TopologySpace, CostTable], phase: str, which: str, shared_change: bool
) -> None:
    relaxed = relaxed_of(tiny, search_weights=which)
    warm = relaxed.optimiser(WARMUP)
    relaxed.learn_weights(batch(), moment(WARMUP), warm)  # gradients are left behind
    before = {name: p.detach().clone() for name, p in relaxed.network.named_parameters()}
    relaxed.learn_weights(batch(), moment(phase), relaxed.optimiser(phase))
    changed = {name for name, p in relaxed.network.named_parameters() if not torch.equal(p, before[name])}
    own = {name for name in before if name.startswith(("heads.", "layers.05.normals.", "layers.05.depth."))}
    assert {name for name in changed if name in own}
    assert bool(changed - own) is shared_change
    assert len(own) < len(before)
    assert all(p.requires_grad for p in relaxed.network.parameters())
    assert all(torch.equal(a, torch.zeros_like(a)) for a in relaxed.architecture.values())


def test_all_arcs_into_a_state_weigh_alike_in_the_warm_up(tiny: tuple[TopologySpace, CostTable]) -> None:
    drawn = relaxed_of(tiny).draw(moment(WARMUP))[0]
    for into in tiny[0].topology.into[1:]:
        torch.testing.assert_close(drawn[:, list(into)], torch.full((2, len(into)), 1 / len(into)))


def test_gradient_of_the_architecture_parameters(tiny: tuple[TopologySpace, CostTable]) -> None:
    """It is that of the tasks' weighted losses, and leaves the weights as they are."""
    relaxed = relaxed_of(tiny)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for values in relaxed.architecture.values():
            values += torch.randn(values.shape, generator=generator)
    before = {name: p.detach().clone() for name, p in relaxed.network.named_parameters()}
    losses = relaxed.add_gradients(batch(), moment(ARCH))
    assert all(torch.equal(p, before[name]) for name, p in relaxed.network.named_parameters())

    found = relaxed.network.predict(batch().images, scalars_of(tiny[0].topology, relaxed.logits), ["normals", "depth"])
    normals, depth = (task_loss(task, found[task.name], batch().labels[task.name]) for task in TASKS)
    assert [float(normals.detach()), float(depth.detach())] == pytest.approx(list(losses.values()), rel=1e-5)
    expected = torch.autograd.grad(3.0 * normals + depth, list(relaxed.architecture.values()))
    for values, gradient in zip(relaxed.architecture.values(), expected, strict=True):
        assert values.grad is not None
        torch.testing.assert_close(values.grad, gradient, rtol=1e-3, atol=1e-6)
    # The only arc into v_1 weighs 1 whatever its parameter is.
    assert not relaxed.architecture["read_in"].grad[:, 0].any()  # type: ignore[index]
    assert relaxed.architecture[LINKS].grad.all()  # type: ignore[union-attr]


def test_only_the_asked_tasks_are_run(tiny: tuple[TopologySpace, CostTable]) -> None:
    network = relaxed_of(tiny).network.eval()
    scalars = torch.rand(2, len(tiny[0].topology.arcs))
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        both, one = (network.predict(image, scalars, tasks) for tasks in (["normals", "depth"], ["depth"]))
    assert list(one) == ["depth"]
    torch.testing.assert_close(one["depth"], both["depth"])


def test_squeeze_loss_in_the_regularisation(tiny: tuple[TopologySpace, CostTable]) -> None:
    # 9 links of a half each, for two tasks; a chain of six states has 5.
    assert float(
        relaxed_of(tiny, squeeze_links=2.0, squeeze_weight=0.1).regularisation(moment(ARCH)).detach()
    ) == pytest.approx(0.5)
    assert float(relaxed_of(tiny, squeeze_weight=0.1).regularisation(moment(ARCH)).detach()) == 0.0


def test_expected_cost_meets_the_network_where_parameters_are_certain(tiny: tuple[TopologySpace, CostTable]) -> None:
    space, table = tiny
    relaxed = relaxed_of(tiny)
    kept = reduce_within(space, torch.randn(2, len(space.topology.arcs)), 0.7, table, []).kept
    start = 0
    for values in relaxed.architecture.values():
        arcs = space.topology.arcs[start : start + values.shape[1]]
        start += len(arcs)
        with torch.no_grad():
            values.copy_(torch.tensor([[60.0 if arc in one else -60.0 for arc in arcs] for one in kept]))
    found = {r: float(v.detach()) for r, v in relaxed.expected().items()}
    assert found == pytest.approx(architecture_costs(table, space.architecture(kept)), rel=1e-9)


def test_rewinding(tiny: tuple[TopologySpace, CostTable]) -> None:
    relaxed, other = relaxed_of(tiny), relaxed_of(tiny)
    optimiser = relaxed.optimiser(WARMUP)
    relaxed.learn_weights(batch(), moment(WARMUP), optimiser)
    relaxed.end_warmup()
    kept = {name: value.clone() for name, value in relaxed.network.state_dict().items()}
    relaxed.learn_weights(batch(2), moment(WEIGHTS), relaxed.optimiser(WEIGHTS))
    other.load_state_dict(relaxed.state_dict())
    assert set(other.rewound) == set(kept)
    assert all(torch.equal(other.rewound[name], value) for name, value in kept.items())
    assert not all(torch.equal(relaxed.network.state_dict()[name], value) for name, value in kept.items())


def test_presets_are_settings() -> None:
    for preset in Preset:
        Own.model_validate(OWN[preset.value])
        for base, changes in ((PRESETS[preset].search, SEARCH), (PRESETS[preset].train, TRAIN)):
            type(base).model_validate({**base.model_dump(), **changes[preset.value]})


def planned(**more: object) -> Plan:
    size = {"size": (64, 64), "search_size": (64, 64), "train_size": (64, 64)}
    steps = {"warmup_steps": 3, "weight_steps": 3, "batch_size": 2}
    asked = {"data": "planted", "method": Method.DYNAMIC, "backbone": "tiny", "search_overrides": steps, **size, **more}
    return plan_search(Request(**asked))  # type: ignore[arg-type]


def check_first_weights(finder: TopologyFinder) -> None:
    """Fine-tuning can begin with other weights than those of the warm-up's end."""
    learned = {which: planned(own={"tune_from": which}) for which in ("search", "fresh")}
    starts = {}
    for which, plan in learned.items():
        other = TopologyFinder(plan, How.alone("cpu"))
        other.relaxed = finder.relaxed
        starts[which] = other.derive(plan.table).start
        assert starts[which] is not None
    name = "heads.a1.predict.weight"
    now = finder.relaxed.network.state_dict()[name]
    found = {which: start.state_dict()[name] for which, start in starts.items() if start is not None}
    assert torch.equal(found["search"], now)
    assert not torch.equal(found["fresh"], now)
    assert not torch.equal(found["fresh"], finder.relaxed.rewound[name])


def test_search_from_end_to_end(tmp_path: Path) -> None:
    plan = planned(own={"tune_from": "warm-up"})
    finder = choose_finder(plan, How.alone("cpu"))
    assert isinstance(finder, TopologyFinder)
    finder.prepare(begun=False)
    run = SimpleNamespace(search_folder=tmp_path)
    finder.learn(run, Silent())  # type: ignore[arg-type]
    phases = [record["phase"] for record in read_lines(tmp_path / "history.jsonl")]
    assert phases == [WARMUP] * 3 + [ARCH, WEIGHTS] * 3
    found = finder.derive(plan.table)
    assert architecture_costs(plan.table, found.architecture)[Resource.MADDS] <= plan.budgets[0].value
    assert found.start is not None
    start = found.start.state_dict()
    rewound = {name for name in start if not name.startswith("sums.")}
    assert all(torch.equal(start[name], finder.relaxed.rewound[name]) for name in rewound)
    check_first_weights(finder)
    for told in found.details["topologies"].values():
        sums = {j: sum(s for _, target, s in told["arcs"] if target == j) for _, j, _ in told["arcs"]}
        assert list(sums.values()) == pytest.approx([1.0] * len(sums))
    require("matplotlib.figure", "train")
    finder.draw(run, found)  # type: ignore[arg-type]
    assert (tmp_path / "topologies.png").read_bytes()[1:4] == b"PNG"
