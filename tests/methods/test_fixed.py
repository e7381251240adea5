"""Baselines that need no learning: their trees by hand on the backbone `tiny`, and what a plan refuses."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import Decode, Method
from bmtas.errors import BudgetError, UsageError
from bmtas.methods.finder import Found, choose_finder
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.runs import Run
from costs.errors import CostError
from costs.units import parse_budget

NAMES = ("a1", "a2", "b1", "b2")
TOGETHER, PAIRS, APART = (NAMES,), (("a1", "a2"), ("b1", "b2")), tuple((name,) for name in NAMES)
# As tests/networks/test_tiny.py counts them: 576 for the stem, 10,032 for a head and 1,680 for a group, at 64 places.
STEM, HEAD, GROUP = 64 * 576, 64 * 10032, 64 * 1680


def planned(method: str, *budgets: str, **options: Any) -> Plan:
    return plan_search(Request(data="planted", backbone="tiny", method=Method(method), budgets=budgets, **options))


@functools.cache
def one_plan() -> Plan:
    return planned("single")


def found(method: str, *budgets: str, seed: int = 0, reference: Architecture | None = None) -> Found:
    """What a method finds within budgets; the cost table, which takes a while, is made once."""
    other = {"method": Method(method), "seed": seed, "reference": reference and reference.to_json()}
    config = one_plan().config.model_copy(update=other)
    plan = dataclasses.replace(one_plan(), config=config, budgets=tuple(map(parse_budget, budgets)))
    finder = choose_finder(plan, How.alone("cpu"))
    finder.prepare(begun=False)
    finder.learn(Run(Path("no folder is needed")), Silent())
    return finder.derive(plan.table)


def madds(architecture: Architecture) -> int:
    stems = 1 if architecture.shared_stem else 4
    return stems * STEM + 4 * HEAD + GROUP * sum(architecture.group_counts)


def text(value: float) -> str:
    return f"{value!r}MAdds"


def tree(*groupings: Any) -> Architecture:
    return BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=groupings)


UNEVEN = tree(TOGETHER, TOGETHER, PAIRS, PAIRS, (("a1",), ("a2",), ("b1", "b2")), (("a1",), ("a2",), ("b1", "b2")))


def test_single_and_shared_need_no_budget_and_get_none() -> None:
    single, shared = found("single"), found("shared")
    assert (single.architecture.groupings, single.architecture.shared_stem) == ((APART,) * 6, False)
    assert (shared.architecture.groupings, shared.architecture.shared_stem) == ((TOGETHER,) * 6, True)
    for method in ("single", "shared"):
        plan = planned(method)
        assert (plan.budgets, plan.config.budgets) == ((), [])


def test_single_keeps_a_budget_or_is_refused() -> None:
    separate = 4 * STEM + 4 * HEAD + 24 * GROUP
    plan = planned("single", text(separate))
    assert [budget.value for budget in plan.budgets] == [separate]
    assert not any("no constraint" in note for note in plan.notes)  # trees have nothing to do with it
    with pytest.raises(BudgetError, match=r"a network per task costs 5\.296 MMAdds in all"):
        planned("single", text(separate - 1))
    assert planned("shared", text(separate)).config.budgets == [text(separate)]


@pytest.mark.parametrize("layer", range(7))
def test_vanilla_parts_as_early_as_the_budget_allows(layer: int) -> None:
    exactly = STEM + 4 * HEAD + GROUP * (layer + 4 * (6 - layer))
    for budget, parts_at in ((exactly, layer), (exactly + 3 * GROUP - 1, layer), (exactly - 1, layer + 1)):
        if parts_at <= 6:
            architecture = found("vanilla", text(budget)).architecture
            assert architecture.groupings == (TOGETHER,) * parts_at + (APART,) * (6 - parts_at)
            assert madds(architecture) <= budget


def test_random_trees_use_the_budget_and_follow_the_seed() -> None:
    budget = STEM + 4 * HEAD + 15 * GROUP
    trees = [found("random", text(budget), seed=seed) for seed in range(8)]
    for drawn in trees:
        share = madds(drawn.architecture) / budget
        assert 0.97 <= share <= 1  # one group less is 0.975 of it
        assert drawn.details == {"share_of_budget": pytest.approx(share, rel=1e-12)}
    assert found("random", text(budget), seed=3) == trees[3]
    assert len({drawn.architecture.groupings for drawn in trees}) > 3


def shape(architecture: Architecture) -> list[Counter[int]]:
    """Return by layer how many groups there are of each size."""
    return [Counter(map(len, grouping)) for grouping in architecture.groupings]


def test_permuted_trees_are_other_trees_of_the_same_form() -> None:
    trees = [found("permuted", reference=UNEVEN, seed=seed).architecture for seed in range(12)]
    for architecture in trees:
        assert shape(architecture) == shape(UNEVEN)
        assert architecture != UNEVEN
        assert madds(architecture) == madds(UNEVEN)
    assert found("permuted", reference=UNEVEN, seed=5).architecture == trees[5]
    # By hand: three ways to make pairs, and either pair may be the one that parts; one of the six is the tree itself.
    assert len({architecture.groupings for architecture in trees}) <= 5
    assert len({architecture.groupings for architecture in trees}) > 2


def test_the_reference_may_name_its_tasks_in_another_order() -> None:
    turned = BranchedArchitecture(backbone="tiny", tasks=NAMES[::-1], groupings=UNEVEN.groupings)
    original = [{frozenset(block) for block in grouping} for grouping in UNEVEN.groupings]
    for seed in range(12):
        groupings = found("permuted", reference=turned, seed=seed).architecture.groupings
        assert [{frozenset(block) for block in grouping} for grouping in groupings] != original


def test_permuting_keeps_the_budget_that_is_given_and_needs_none() -> None:
    cost = madds(UNEVEN)
    assert planned("permuted", reference=UNEVEN).config.budgets == []
    assert madds(found("permuted", text(cost), reference=UNEVEN).architecture) == cost
    with pytest.raises(BudgetError, match=r"the permuted tree costs 3\.895 MMAdds"):
        found("permuted", text(cost - 1), reference=UNEVEN)


@pytest.mark.parametrize("alike", [TOGETHER, APART])
def test_a_tree_in_which_all_tasks_stand_alike_cannot_be_permuted(alike: Any) -> None:
    with pytest.raises(CostError, match="this tree stays the same"):
        found("permuted", reference=tree(*(alike,) * 6))


def test_a_reference_belongs_to_permuted_and_to_nothing_else() -> None:
    with pytest.raises(UsageError, match="name the run with --from"):
        planned("permuted")
    for method in ("branched", "random", "bmn"):
        with pytest.raises(UsageError, match="no other method takes"):
            planned(method, reference=UNEVEN)


def test_a_reference_of_other_tasks_or_another_backbone_is_refused() -> None:
    fewer = BranchedArchitecture.shared("tiny", NAMES[:3], 6)
    with pytest.raises(UsageError, match=r"of tiny with the tasks a1, a2, b1, this one of tiny with a1, a2, b1, b2"):
        planned("permuted", reference=fewer)
    with pytest.raises(UsageError, match=r"is of resnet50 with .*permute a tree of the same backbone"):
        planned("permuted", reference=BranchedArchitecture.shared("resnet50", NAMES, 17))
    # The same tasks in another order are the same.
    assert planned("permuted", reference=UNEVEN, tasks=["b2", "a1", "a2", "b1"]).config.reference is not None


OF_A_SEARCH = {
    "warmup_steps": (3, "--warmup-steps"),
    "weight_steps": (3, "--search-steps"),
    "learning_rate": (0.1, "--search-learning-rate"),
    "estimator": ("sampled", "--estimator"),
    "activation_checkpointing": (True, "--activation-checkpointing"),
    "resource_term": ("none", "--no-resource-term"),
    "cost_estimate": ("published", "--cost-estimate"),
}


@pytest.mark.parametrize("method", ["single", "vanilla", "fafs"])
@pytest.mark.parametrize("key", list(OF_A_SEARCH))
def test_settings_of_a_search_mean_nothing_to_a_baseline(method: str, key: str) -> None:
    value, option = OF_A_SEARCH[key]
    with pytest.raises(UsageError, match=f"{option}.*: means nothing to --method {method}"):
        planned(method, search_overrides={key: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"decode": Decode.ARGMAX}, "--decode"),
        ({"search_size": (32, 32)}, "--search-size"),
        ({"no_resizing": True}, "--no-resizing"),
        ({"decode": Decode.ARGMAX, "search_overrides": {"warmup_steps": 1}}, "--warmup-steps, --decode"),
    ],
)
def test_other_options_of_a_search_mean_nothing_either(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}: means nothing to --method random"):
        planned("random", **options)


def test_settings_that_training_has_too_are_taken() -> None:
    plan = planned("random", search_overrides={"batch_size": 6, "accumulate": 2, "precision": "bf16"})
    assert (plan.config.search.batch_size, plan.config.method) == (6, Method.RANDOM)


@pytest.mark.parametrize("method", ["vanilla", "random", "fafs", "bmn"])
def test_without_a_budget_the_others_get_one_halfway(method: str) -> None:
    (budget,) = planned(method).budgets
    shared, separate = STEM + 4 * HEAD + 6 * GROUP, 4 * STEM + 4 * HEAD + 24 * GROUP
    assert budget.value == pytest.approx((shared + separate) / 2, rel=1e-3)
    assert budget.value >= (shared + separate) / 2  # rounded upwards
