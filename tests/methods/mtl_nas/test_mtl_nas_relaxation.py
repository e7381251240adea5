"""The relaxed network of MTL-NAS: gates, entropy, expected cost, and what its updates change."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from bmtas.architecture import BranchedArchitecture
from bmtas.config import PRESETS, Optimiser, Preset, SearchSettings
from bmtas.data.batches import Batch
from bmtas.losses import task_loss
from bmtas.methods.mtl_nas.losses import entropies, mean_entropy
from bmtas.methods.mtl_nas.relaxation import RelaxedFusions, Supernet, gates_of, start_from
from bmtas.methods.mtl_nas.settings import Gates, Own
from bmtas.methods.mtl_nas.space import Edge, FusionSpace
from bmtas.methods.mtl_nas.stages import gate_temperature
from bmtas.methods.relaxed import Moment
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.parallel import Parallel
from bmtas.profile import build_table
from bmtas.schedule import ARCH, WEIGHTS, Step
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

TASKS = (Task(name="normals", kind=TaskKind.NORMALS), Task(name="depth", kind=TaskKind.DEPTH))
TINY = get_backbone("tiny")
SPACE = FusionSpace(TINY, ("normals", "depth"))
SMALL = replace(TINY, stages=(2, 1), name="tiny")
"""Fewer nodes, so that all networks can be gone through: 3 + 1 edges per direction."""


def settings(**changed: object) -> SearchSettings:
    return PRESETS[Preset.QUICK].search.model_copy(update={"batch_size": 2, **changed})


def table_of(space: FusionSpace) -> CostTable:
    return with_operations(
        build_table(space.backbone, TASKS, (64, 64)), space, Kit(space.backbone, {t.name: t for t in TASKS})
    )


@pytest.fixture(scope="module")
def table() -> CostTable:
    return table_of(SPACE)


def relaxed_of(table: CostTable, space: FusionSpace = SPACE, **own: object) -> RelaxedFusions:
    torch.manual_seed(0)
    chosen = Own.model_validate({"fusion_rate": 7.0, **own})
    network = Supernet(space, TASKS, None, chosen.own_weight)
    return RelaxedFusions(network, chosen, TASKS, settings(), Parallel(torch.device("cpu")), table, ())


def moment(phase: str, progress: float = 0.5, seed: int = 0) -> Moment:
    return Moment(Step(phase, 0, True), progress, 1.0, torch.Generator().manual_seed(seed))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    labels = {
        "normals": F.normalize(torch.randn(2, 3, 32, 32, generator=generator), dim=1),
        "depth": 1 + torch.rand(2, 32, 32, generator=generator),
    }
    return Batch(torch.randn(2, 3, 32, 32, generator=generator), labels, ("0", "1"))


def test_temperature_by_hand() -> None:
    assert [gate_temperature(x) for x in (0.0, 0.5, 0.9)] == pytest.approx([1.0, 0.25, 0.01])
    assert gate_temperature(1.0) == 1e-3


def test_deterministic_gates_are_the_probabilities() -> None:
    logits = torch.tensor([0.0, 2.0, -3.0])
    gates = gates_of(logits, Gates.DETERMINISTIC, 0.1, torch.Generator())
    np.testing.assert_allclose(gates, 1 / (1 + np.exp([0.0, -2.0, 3.0])), rtol=1e-6)


def test_stochastic_gates_are_binary_concrete() -> None:
    # logit(x) * temperature - logit(p) of the binary Concrete distribution is logistic (Maddison et al. 2017).
    temperature, logit = 0.7, 0.8
    gates = gates_of(torch.full((4000,), logit), Gates.STOCHASTIC, temperature, torch.Generator().manual_seed(0))
    noise = torch.logit(gates.double()).numpy() * temperature - logit
    assert stats.kstest(noise, stats.logistic.cdf).pvalue > 0.05
    # Maddison et al.: P(x > 1/2) = p whatever the temperature.
    cold = gates_of(torch.full((4000,), logit), Gates.STOCHASTIC, 1e-3, torch.Generator().manual_seed(1))
    assert float(((cold - cold.round()).abs() < 0.01).double().mean()) > 0.99
    assert float(cold.round().mean()) == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.02)


def test_gates_have_finite_gradients_when_cold() -> None:
    logits = torch.linspace(-30, 30, 201, requires_grad=True)
    gates_of(logits, Gates.STOCHASTIC, 1e-3, torch.Generator().manual_seed(0)).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_entropy_against_scipy() -> None:
    p = np.array([0.01, 0.3, 0.5, 0.9, 1 - 1e-6])
    expected = [stats.bernoulli(q).entropy() for q in p]
    np.testing.assert_allclose(entropies(torch.from_numpy(np.log(p / (1 - p)))), expected, rtol=1e-9)
    assert float(entropies(torch.tensor([500.0])).sum()) == 0.0
    # Mean per task, then over the tasks: (ln 2 + 0) / 2, whatever the number of edges.
    mixed = mean_entropy([torch.zeros(3), torch.full((9,), 200.0)])
    assert float(mixed) == pytest.approx(np.log(2) / 2)


def test_expected_cost_is_that_of_all_networks_together() -> None:
    space = FusionSpace(SMALL, SPACE.tasks)
    assert len(space.edges) == 8
    table = table_of(space)
    relaxed = relaxed_of(table, space)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for value in relaxed.architecture.values():
            value.copy_(torch.from_numpy(rng.normal(size=len(value))))
    p = 1 / (1 + np.exp(-relaxed.logits.detach().numpy()))
    expected = {Resource.MADDS: 0.0, Resource.PARAMS: 0.0}
    for kept in itertools.product([False, True], repeat=8):
        probability = float(np.prod(np.where(kept, p, 1 - p)))
        for resource, cost in architecture_costs(table, space.architecture(kept)).items():
            expected[resource] += probability * cost
    found = relaxed.expected()
    assert {r: v.item() for r, v in found.items()} == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_expected_cost(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    relaxed.expected()[Resource.MADDS].backward()
    gradient = relaxed.architecture["depth"].grad
    assert gradient is not None
    # At one half the slope of the sigmoid is 1/4; an edge in the wide half takes 12 * 12 multiply-adds at 16 * 16 places.
    place = [e for e in SPACE.edges if e.task == "depth"].index(Edge("depth", "layers.01", "normals", "layers.00"))
    assert float(gradient[place]) == pytest.approx(144 * 256 / 4)


def test_first_weights_of_fusions() -> None:
    network = Supernet(SPACE, TASKS, None, 0.4)
    fusion = network.fusion("depth", "layers.01")  # three sources: stem, layer 0, layer 1
    weight = fusion.conv.weight[:, :, 0, 0].detach()
    expected = np.concatenate([0.4 * np.eye(12)] + [0.2 * np.eye(12)] * 3, axis=1)
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_gates_multiply_the_features() -> None:
    torch.manual_seed(1)
    network = Supernet(SPACE, TASKS, None, 0.5).eval()
    image, gates = torch.randn(2, 3, 32, 32), torch.rand(len(SPACE.edges))
    places = {f"{e.node} {e.task} {e.source_node}": i for i, e in enumerate(SPACE.edges)}
    with torch.no_grad():
        values: dict[tuple[str, str], torch.Tensor] = {}
        raw: dict[tuple[str, str], torch.Tensor] = {}
        for number, node in enumerate(SPACE.nodes):
            for task in SPACE.tasks:
                before = values[task, SPACE.nodes[number - 1]] if number else image
                raw[task, node] = network.whole.get_submodule(f"{node}.{task}")(before)
            for task, other in (("normals", "depth"), ("depth", "normals")):
                sources = [e.source_node for e in SPACE.edges if (e.task, e.node) == (task, node)]
                gated = [gates[places[f"{node} {task} {s}"]] * raw[other, s] for s in sources]
                values[task, node] = network.fusion(task, node)(raw[task, node], *gated)
        found = network(image, gates)
        for task in SPACE.tasks:
            last = values[task, "layers.05"]
            head = network.whole.get_submodule(f"heads.{task}")(last, last)
            expected = F.interpolate(head, size=(32, 32), mode="bilinear", align_corners=False)
            torch.testing.assert_close(found[task], expected, rtol=1e-4, atol=1e-5)
        other = network(image, torch.ones(len(SPACE.edges)))
        assert not torch.allclose(found["depth"], other["depth"], atol=1e-3)


def test_an_architecture_step_moves_logits_alone(table: CostTable) -> None:
    relaxed = relaxed_of(table, own_weight=0.5)
    before = {k: v.clone() for k, v in relaxed.network.named_parameters()}
    optimiser = relaxed.optimiser(ARCH)
    losses = relaxed.add_gradients(batch(), moment(ARCH))
    assert set(losses) == {"normals", "depth"}
    gradients = {k: v.grad.clone() for k, v in relaxed.architecture.items() if v.grad is not None}
    assert all(float(g.abs().max()) > 0 for g in gradients.values())
    optimiser.step()
    assert all(torch.equal(before[k], v) for k, v in relaxed.network.named_parameters())
    for task, value in relaxed.architecture.items():
        # Adam's first step is the rate by the sign of the gradient; the logits began at 0, so nothing decays.
        step = -relaxed.settings.arch_learning_rate * torch.sign(gradients[task])
        moved = gradients[task].abs() > 1e-5
        torch.testing.assert_close(value.detach()[moved], step[moved], rtol=1e-2, atol=0)


def test_gradient_of_a_logit_by_differences(table: CostTable) -> None:
    relaxed = relaxed_of(table, own_weight=0.5, arch_relaxation="deterministic")
    relaxed.network.eval()  # so that a pass changes no statistics
    images = batch()
    relaxed.add_gradients(images, moment(ARCH))
    gradient = relaxed.architecture["depth"].grad
    assert gradient is not None
    network, edge = relaxed.network.double(), 15 + 4  # of all edges, those of `normals` come first

    def loss(logit: float) -> float:
        gates = torch.full((30,), 0.5, dtype=torch.float64)
        gates[edge] = 1 / (1 + np.exp(-logit))
        with torch.no_grad():
            found = network(images.images.double(), gates)
        labels = {name: label.double() for name, label in images.labels.items()}
        return sum(t.loss_weight * float(task_loss(t, found[t.name], labels[t.name])) for t in TASKS)

    assert float(gradient[4]) == pytest.approx((loss(1e-3) - loss(-1e-3)) / 2e-3, rel=1e-3)


def test_a_weight_step_leaves_the_logits(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    optimiser = relaxed.optimiser(WEIGHTS)
    stem = relaxed.network.whole.get_submodule("stem.depth")
    before = [p.detach().clone() for p in stem.parameters()]
    relaxed.learn_weights(batch(), moment(WEIGHTS), optimiser)
    assert all(not torch.equal(a, b) for a, b in zip(before, stem.parameters(), strict=True))
    assert all(v.grad is None and not v.any() for v in relaxed.architecture.values())


def test_fusions_learn_at_their_own_rate(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    groups = relaxed.optimiser(WEIGHTS).param_groups
    rate = relaxed.settings.learning_rate
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(rate, 2.5e-4), (pytest.approx(7 * rate), 2.5e-4)]
    # 4 nodes of 12 channels with sources 1, 2, 3, 3 and 3 of 4 with 1, 2, 3, for both tasks.
    convolutions = 144 * (4 + 9) + 16 * (3 + 6)
    assert sum(p.numel() for p in groups[1]["params"]) == 2 * (convolutions + 2 * (4 * 12 + 3 * 4))
    assert sum(len(g["params"]) for g in groups) == len(list(relaxed.network.parameters()))


@pytest.mark.parametrize("kind", [Optimiser.SGD, Optimiser.ADAMW])
def test_both_optimisers_take_the_groups(table: CostTable, kind: Optimiser) -> None:
    relaxed = relaxed_of(table)
    relaxed.settings = settings(optimiser=kind)
    optimiser = relaxed.optimiser(WEIGHTS)
    before = relaxed.network.fusion("depth", "stem").conv.weight.detach().clone()
    for _ in range(2):
        relaxed.learn_weights(batch(), moment(WEIGHTS), optimiser)
    assert not torch.equal(before, relaxed.network.fusion("depth", "stem").conv.weight)


def test_which_relaxation_is_used_in_which_step(table: CostTable) -> None:
    relaxed = relaxed_of(table, arch_relaxation="deterministic", weight_relaxation="stochastic")
    (arch,), (weights,) = relaxed.draw(moment(ARCH)), relaxed.draw(moment(WEIGHTS))
    assert torch.equal(arch.detach(), torch.full((30,), 0.5))
    assert float(weights.detach().std()) > 0.1
    assert torch.equal(weights, relaxed.draw(moment(WEIGHTS))[0])  # the noise is that of the step
    assert not torch.equal(weights, relaxed.draw(moment(WEIGHTS, seed=1))[0])


def test_entropy_term_drives_logits_away_from_one_half(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    with torch.no_grad():
        relaxed.architecture["depth"].fill_(0.3)
        relaxed.architecture["normals"].fill_(-0.3)
    term = relaxed.regularisation(moment(ARCH))
    p = 1 / (1 + np.exp(-0.3))
    assert float(term.detach()) == pytest.approx(10 * stats.bernoulli(p).entropy(), rel=1e-6)
    term.backward()
    for task, sign in (("depth", -1), ("normals", 1)):
        gradient = relaxed.architecture[task].grad
        assert gradient is not None
        # dH/da = -a p (1 - p); a mean over 15 edges and 2 tasks.
        np.testing.assert_allclose(gradient, sign * 10 * 0.3 * p * (1 - p) / 30, rtol=1e-5)


def test_backbones_begin_from_separate_networks(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    torch.manual_seed(9)
    separate = build_network(BranchedArchitecture.separate("tiny", SPACE.tasks, 6), TASKS)
    start_from(relaxed.network, separate)
    for name in ("stem.depth", "layers.05.normals", "heads.depth"):
        ours, theirs = relaxed.network.whole.get_submodule(name), separate.get_submodule(name)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_shown(table: CostTable) -> None:
    relaxed = relaxed_of(table)
    with torch.no_grad():
        relaxed.architecture["depth"][:4] = 9.0
    shown = relaxed.shown()
    assert shown.texts["edges more likely than not"] == "4 of 30"
    assert shown.record["probabilities"]["depth"][3:5] == [0.9999, 0.5]
    assert shown.record["entropy"] == pytest.approx(np.log(2) * 26 / 30, abs=1e-3)
