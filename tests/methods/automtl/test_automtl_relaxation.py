"""The relaxed network of AutoMTL: its mixtures by hand, and the networks that are derived from it with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.checkpoint import save_checkpoint
from bmtas.config import PRESETS, Preset, RunConfig
from bmtas.data.batches import Batch
from bmtas.errors import UsageError
from bmtas.methods.automtl.derivation import inherit, validation_losses
from bmtas.methods.automtl.prices import OWN, SHARED, SKIP
from bmtas.methods.automtl.relaxation import RelaxedPolicies, Supermodel
from bmtas.methods.automtl.settings import Own
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.methods.relaxed import Moment
from bmtas.methods.space import with_operations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.parallel import How
from bmtas.profile import build_table
from bmtas.runs import Run
from bmtas.schedule import ARCH, WARMUP, WEIGHTS, Step
from bmtas.tables import architecture_costs
from bmtas.tasks import Task, TaskKind
from costs.units import Resource

TASKS = (
    Task(name="depth", kind=TaskKind.DEPTH),
    Task(name="kind", kind=TaskKind.CLASSIFICATION, classes=("x", "y", "z"), loss_weight=3.0),
)
NAMES = [task.name for task in TASKS]


def supermodel(backbone: str = "tiny", shared: int = 0) -> Supermodel:
    torch.manual_seed(0)
    kit = Kit(get_backbone(backbone), {task.name: task for task in TASKS})
    return Supermodel(ConvolutionSpace(kit, shared), kit)


def relaxed_of(network: Supermodel, **own: Any) -> RelaxedPolicies:
    space = network.space
    table = with_operations(build_table(space.kit.backbone, TASKS, (32, 32)), space, space.kit)
    settings = PRESETS[Preset.QUICK].search.model_copy(update={"batch_size": 4, "learning_rate": 1e-3})
    return RelaxedPolicies(network.train(), Own(**own), TASKS, settings, How.alone("cpu").parallel, table)


def batch(seed: int = 0, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = {
        "depth": torch.rand(4, size, size, generator=generator),
        "kind": torch.randint(0, 3, (4,), generator=generator),
    }
    return Batch(torch.randn(4, 3, size, size, generator=generator), labels, tuple("abcd"))


def moment(phase: str, progress: float = 0.0, seed: int = 0) -> Moment:
    return Moment(Step(phase, 0, True), progress, 1.0, torch.Generator().manual_seed(seed))


def test_a_mixture_is_the_weighted_sum_of_its_branches() -> None:
    network = supermodel().eval()
    x = torch.randn(1, 3, 16, 16)
    stem = network.space.trace.operations[0]
    mix = [(SHARED, 0.5), (OWN, 0.2), (SKIP, 0.3)]
    found = network._mixed(stem, "depth", x, mix)
    state = network.state_dict()
    eps = 1e-5

    def conv(prefix: str, **options: Any) -> Tensor:
        return F.conv2d(x, state[f"{prefix}.weight"], **options) / (1 + eps) ** 0.5

    pixels = x[:, :, 2::4, 2::4]  # a skip reads the middle one of each 4x4 that the stem reads
    skipped = F.conv2d(pixels, state["own.depth.skips_000.conv.weight"]) / (1 + eps) ** 0.5
    expected = 0.5 * conv("shared.convs_000", stride=4) + 0.2 * conv("own.depth.convs_000", stride=4) + 0.3 * skipped
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2"])
def test_certain_weights_are_single_branches(backbone: str) -> None:
    network = supermodel(backbone).eval()
    convs = len(network.space.trace.convs)
    choices = np.random.default_rng(0).integers(0, 3, (2, convs))
    certain = F.one_hot(torch.from_numpy(choices), 3).float()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        mixed, chosen = network(image, certain, NAMES), network.chosen(image, choices.tolist())
    for name in NAMES:
        torch.testing.assert_close(mixed[name], chosen[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert list(network(image, certain, ["kind"])) == ["kind"]


@dataclass(frozen=True)
class _Stands(Run):
    """A run of which the backbone is all that is asked."""

    def config(self) -> Any:
        return RunConfig.model_construct(backbone="mobilenet_v2")


def test_a_derived_network_that_inherits_computes_what_its_branches_compute(tmp_path: Path) -> None:
    network = supermodel("mobilenet_v2")
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):  # running statistics that differ between branches
        network.train()(torch.randn(4, 3, 64, 64, generator=generator), torch.full((2, 54, 3), 1 / 3), NAMES)
    network.eval()
    save_checkpoint(tmp_path / "search" / "checkpoint.pt", {"network": network.state_dict()})
    image, run = torch.randn(2, 3, 64, 64, generator=generator), _Stands(tmp_path)
    rng = np.random.default_rng(1)
    for trial in range(3):
        choices = network.space.held(rng.integers(0, 3, (2, 54)))
        if trial == 2:
            choices[:, :20] = choices[0, :20]
        derived = build_network(network.space.architecture(choices), TASKS)
        inherit(run, derived)
        with torch.no_grad():
            found, expected = derived.eval()(image), network.chosen(image, choices.tolist())
        for name in NAMES:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    save_checkpoint(tmp_path / "search" / "checkpoint.pt", {"network": {"heads.depth.x": image}})
    with pytest.raises(UsageError, match="does not belong to this search"):
        inherit(run, derived)


def test_the_warm_up_takes_the_mean_and_policy_steps_a_sample() -> None:
    relaxed = relaxed_of(supermodel(), temperature_decays=40)
    (even,) = relaxed.draw(moment(WARMUP))
    assert torch.equal(even, torch.full((2, 13, 3), 1 / 3))
    (sample,) = relaxed.draw(moment(ARCH))
    torch.testing.assert_close(sample.sum(dim=-1), torch.ones(2, 13))
    assert float(sample.detach().std()) > 0.01
    (same,) = relaxed.draw(moment(WEIGHTS))
    assert torch.equal(sample, same)  # of equal noise at equal temperature
    (later,) = relaxed.draw(moment(ARCH, progress=1.0))
    assert later.detach().max(dim=-1).values.mean() > sample.detach().max(dim=-1).values.mean()


def test_weights_are_updated_for_one_task_after_the_other() -> None:
    relaxed = relaxed_of(supermodel())
    optimiser = relaxed.optimiser(WARMUP)
    assert isinstance(optimiser, torch.optim.Adam)
    assert optimiser.param_groups[0]["betas"] == (0.5, 0.999)
    steps: list[set[str]] = []
    names = {parameter: name for name, parameter in relaxed.network.named_parameters()}

    def note(*_: Any) -> None:
        steps.append({name for parameter, name in names.items() if parameter.grad is not None})

    optimiser.register_step_pre_hook(note)
    losses = relaxed.learn_weights(batch(), moment(WARMUP), optimiser)
    assert set(losses) == set(NAMES)
    assert len(steps) == 2
    for task, touched in zip(NAMES, steps, strict=True):
        assert all(name.split(".")[1] == task for name in touched if not name.startswith("shared."))
        assert any(name.startswith(f"own.{task}.convs") for name in touched)
        assert any(name.startswith("shared.convs") for name in touched)


def test_gradients_of_policies_are_those_of_the_weighted_losses() -> None:
    relaxed = relaxed_of(supermodel())
    for parameter in relaxed.architecture.values():
        torch.nn.init.normal_(parameter, std=0.1)
    relaxed.network.eval()
    relaxed.add_gradients(batch(), moment(ARCH))
    found = {name: value.grad.clone() for name, value in relaxed.architecture.items() if value.grad is not None}

    def total() -> float:
        with torch.no_grad():
            (drawn,) = relaxed.draw(moment(ARCH))
            out = relaxed.network(batch().images, drawn, NAMES)
        depth = F.l1_loss(out["depth"][:, 0], batch().labels["depth"])
        return float(depth + 3.0 * F.cross_entropy(out["kind"], batch().labels["kind"]))

    for name in NAMES:
        value, places = relaxed.architecture[name].detach(), [(0, 0), (3, 1), (7, 2)]
        for place in places:
            before = float(value[place])
            ends = []
            for step in (0.05, -0.05):
                value[place] = before + step
                ends.append(total())
            value[place] = before
            assert float(found[name][place]) == pytest.approx((ends[0] - ends[1]) / 0.1, rel=0.1, abs=2e-4)


def test_expected_costs_of_certain_policies() -> None:
    relaxed = relaxed_of(supermodel(shared=2))
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 3, (2, 13))
    with torch.no_grad():
        for t, parameter in enumerate(relaxed.architecture.values()):
            parameter.copy_(60.0 * F.one_hot(torch.from_numpy(choices[t]), 3))
    space = relaxed.network.space
    table = with_operations(build_table(space.kit.backbone, TASKS, (32, 32)), space, space.kit)
    expected = architecture_costs(table, space.architecture(space.held(choices)))
    found = relaxed.expected()
    for resource in (Resource.MADDS, Resource.PARAMS):
        assert float(found[resource].detach()) == pytest.approx(expected[resource], rel=1e-9)
    assert (relaxed.probabilities()[:, :2, SHARED] == 1.0).all()


def test_the_regularisation_is_weighted() -> None:
    one = relaxed_of(supermodel(), regularisation_weight=1.0).regularisation(moment(ARCH))
    small = relaxed_of(supermodel(), regularisation_weight=0.01).regularisation(moment(ARCH))
    assert float(one.detach()) == pytest.approx(100 * float(small.detach()), rel=1e-5)
    assert float(one.detach()) > 0


def test_validation_changes_nothing_and_is_the_weighted_loss() -> None:
    network = supermodel().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rng = np.random.default_rng(0)
    policies = [rng.integers(0, 3, (2, 13)) for _ in range(2)]
    losses = validation_losses(network, TASKS, [batch(0), batch(1)], policies)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert network.training
    each = []
    for seed in (0, 1):
        with torch.no_grad():
            out = supermodel().train().chosen(batch(seed).images, policies[1].tolist())
        labels = batch(seed).labels
        each.append(F.l1_loss(out["depth"][:, 0], labels["depth"]) + 3.0 * F.cross_entropy(out["kind"], labels["kind"]))
    assert losses[1] == pytest.approx(float(sum(each)) / 2, rel=1e-4)
    assert losses[0] != losses[1]


def test_what_is_shown_of_policies() -> None:
    relaxed = relaxed_of(supermodel())
    shown = relaxed.shown()
    assert shown.texts == {"convolutions": "33 % shared, 33 % own, 33 % skipped"}
    assert np.array(shown.record["probabilities"]).shape == (2, 13, 3)
