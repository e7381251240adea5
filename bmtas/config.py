"""What a run means to do: its configuration, resolved once and written into the run folder. Needs no torch."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from bmtas.settings import Settings
from bmtas.tasks import Task
from costs.units import parse_budget

SCHEMA_VERSION = 1


class Method(str, Enum):
    """How a run comes to its architecture."""

    BRANCHED = "branched"  # the paper's search, under a budget
    MTL_NAS = "mtl-nas"  # which features of other tasks' backbones are fused into one's own (Gao et al., CVPR 2020)
    AUTOMTL = "automtl"  # each convolution shared, a task's own, or skipped (Zhang et al., NeurIPS 2022)
    DYNAMIC = "dynamic"  # a graph of states in which every task keeps its own links (after Choi & Im, CVPR 2023)
    SINGLE = "single"  # a network per task
    SHARED = "shared"  # all layers shared
    VANILLA = "vanilla"  # all tasks part at one layer (paper, section 4.3)
    RANDOM = "random"  # a tree drawn by chance
    PERMUTED = "permuted"  # another run's tree, its tasks dealt anew to the branches (paper, section 4.3)
    FAFS = "fafs"  # grouped greedily by the difficulty of samples (Lu et al., CVPR 2017)
    BMN = "bmn"  # the least dissimilar features of single-task networks (Vandenhende et al., BMVC 2020)
    CROSS_STITCH = "cross-stitch"  # a network per task, features mixed by learned scalars (Misra et al., CVPR 2016)
    NDDR_CNN = "nddr-cnn"  # a network per task, features fused after every stage (Gao et al., CVPR 2019)
    MTAN = "mtan"  # one shared encoder, attention masks per task (Liu et al., CVPR 2019)
    SLUICE = "sluice"  # a network per task, halves of the features mixed by learned scalars (Ruder et al., AAAI 2019)

    @property
    def folder(self) -> str:
        """Name of its folder in `bmtas.methods`, or of its only module there (`one_module`)."""
        if self in _SHARING:
            return "sharing"
        return "fixed" if self in _FIXED else self.value.replace("-", "_")

    @property
    def one_module(self) -> bool:
        """Whether a module of `bmtas.methods` is all that it needs: no space, and no settings of its own."""
        return self in _FIXED or self in (Method.FAFS, Method.BMN)

    @property
    def wired(self) -> bool:
        """Whether its networks are no trees, and made of operations that the cost table of trees does not know."""
        return self in (Method.MTL_NAS, Method.AUTOMTL, Method.DYNAMIC) or self in _SHARING

    @property
    def searches(self) -> bool:
        """Whether it learns architecture parameters."""
        return self in (Method.BRANCHED, Method.MTL_NAS, Method.AUTOMTL, Method.DYNAMIC)

    @property
    def kept_weights(self) -> bool:
        """Whether its search leaves weights that the network found can inherit (`bmtas train --init search`)."""
        return self in (Method.BRANCHED, Method.AUTOMTL)


_FIXED = (Method.SINGLE, Method.SHARED, Method.VANILLA, Method.RANDOM, Method.PERMUTED)
_SHARING = (Method.CROSS_STITCH, Method.NDDR_CNN, Method.MTAN, Method.SLUICE)


class Optimiser(str, Enum):
    """How weights are updated."""

    SGD = "sgd"  # the paper: momentum 0.9, weight decay 0.0001, poly schedule
    ADAMW = "adamw"  # learns from random weights in few steps, where SGD with the paper's rate has hardly moved


class Estimator(str, Enum):
    """How a step passes through the supergraph."""

    SOFT = "soft"  # the paper: all candidates of a layer, mixed by softened samples (Gumbel-softmax)
    SAMPLED = "sampled"  # one candidate per task and layer; straight-through gradient


class Precision(str, Enum):
    """Of the convolutions in the passes of a search or a training."""

    FP32 = "fp32"
    BF16 = "bf16"  # by autocast; weights, statistics and losses stay float32


class ResourceTermKind(str, Enum):
    """How the cost enters the loss of the architecture parameters."""

    BUDGET = "budget"  # a multiplier drives the expected cost to the budget
    WEIGHT = "weight"  # the paper, Eq. 4: a fixed weight, and no budget during the search
    NONE = "none"  # the paper's ablation "w/o res. loss": the tasks alone decide


class CostEstimate(str, Enum):
    """What is taken for the expected cost."""

    EXACT = "exact"
    PUBLISHED = "published"  # the paper's Eq. 6, which over-counts; for comparison


class Decode(str, Enum):
    """How an architecture is taken from the probabilities."""

    BEST = "best"  # the most probable one within the budgets
    ARGMAX = "argmax"  # the paper: every task's most probable candidates, whatever that costs


class SearchSettings(Settings):
    """The search loop. Steps are per task: one weight step updates the supergraph once for every task.

    `batch_size` is that of a step, whatever the number of processes and parts that share it.
    """

    batch_size: int = Field(ge=2)
    warmup_steps: int = Field(ge=0)  # paper: 2000
    weight_steps: int = Field(ge=1)  # paper: 40000
    weight_steps_per_cycle: int = Field(ge=1)
    arch_steps_per_cycle: int = Field(ge=1)
    arch_share: float = Field(default=0.2, gt=0, lt=1)  # paper: 20 % of the data for architecture parameters
    optimiser: Optimiser = Optimiser.SGD
    learning_rate: float = Field(gt=0)  # paper: 0.005 with SGD
    arch_learning_rate: float = Field(default=0.01, gt=0)  # paper
    # Updates of the architecture parameters by the resource term alone, after each architecture step. They need no
    # images. Paper: none; but its thousands of steps are what lets the term work its way down layer by layer.
    resource_steps: int = Field(default=0, ge=0)
    resource_learning_rate: float = Field(default=0.01, gt=0)
    estimator: Estimator = Estimator.SOFT
    precision: Precision = Precision.FP32
    activation_checkpointing: bool = False  # less memory for more time: layers are computed twice
    accumulate: int = Field(default=1, ge=1)  # a batch is computed in so many parts, for less memory
    resource_term: ResourceTermKind = ResourceTermKind.BUDGET
    resource_weight: float | None = Field(default=None, ge=0)  # loss per GMAdds; of resource_term "weight"
    cost_estimate: CostEstimate = CostEstimate.EXACT
    temperature_start: float = Field(default=5.0, gt=0)  # paper
    temperature_end: float = Field(default=0.1, gt=0)  # paper
    scales: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _check_weight(self) -> SearchSettings:
        if (self.resource_weight is None) == (self.resource_term is ResourceTermKind.WEIGHT):
            raise ValueError(
                f"resource_weight is {self.resource_weight} and resource_term is {self.resource_term.value!r}: a weight "
                "belongs to the term 'weight', and to no other"
            )
        return self


class TrainSettings(Settings):
    """Retraining of the derived network, and of the shared and separate ones beside it."""

    batch_size: int = Field(ge=2)
    steps: int = Field(ge=1)  # paper: 40000
    optimiser: Optimiser = Optimiser.SGD
    learning_rate: float = Field(gt=0)
    # Paper: an operation shared by several tasks gets its rate divided by their number, because it receives their
    # gradients' sum. AdamW normalises gradients, so there the division would only slow shared layers down.
    divide_rate_by_sharing: bool = True
    precision: Precision = Precision.FP32
    accumulate: int = Field(default=1, ge=1)  # a batch is computed in so many parts, for less memory
    scales: tuple[float, ...] = (1.0,)
    evaluate_images: int | None = Field(default=None, ge=1)


class Preset(str, Enum):
    """How long to search and train."""

    QUICK = "quick"
    STANDARD = "standard"
    PAPER = "paper"


# Random scaling of the paper, appendix A.
_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


class PresetSettings(Settings):
    """`search_pixels` and `train_pixels` bound height x width of the images there; None keeps the deployed size.

    With `whole_passes` a cycle of the search is one pass over the images for the architecture parameters and one over those
    for the weights, whatever their number; the settings hold what that is for PASCAL-Context.
    """

    search: SearchSettings
    train: TrainSettings
    search_pixels: int | None
    train_pixels: int | None
    search_scale: float = 1.0
    whole_passes: bool = False
    weights: str


PRESETS: dict[Preset, PresetSettings] = {
    # Minutes on two cores. Random weights, so that it needs no download.
    Preset.QUICK: PresetSettings(
        search=SearchSettings(
            batch_size=4,
            warmup_steps=24,
            weight_steps=18,
            weight_steps_per_cycle=3,
            arch_steps_per_cycle=3,
            optimiser=Optimiser.ADAMW,
            learning_rate=2e-3,
            arch_learning_rate=0.4,  # 18 updates instead of thousands
            resource_steps=10,
            resource_learning_rate=0.1,
        ),
        train=TrainSettings(
            batch_size=8,
            steps=150,
            optimiser=Optimiser.ADAMW,
            learning_rate=3e-3,
            divide_rate_by_sharing=False,
            evaluate_images=256,
        ),
        search_pixels=96 * 96,
        train_pixels=128 * 128,
        weights="none",
    ),
    # For a GPU: the paper's loop at an eighth of its length.
    Preset.STANDARD: PresetSettings(
        search=SearchSettings(
            batch_size=8,
            warmup_steps=500,
            weight_steps=5000,
            weight_steps_per_cycle=100,
            arch_steps_per_cycle=25,
            learning_rate=0.005,
            scales=_SCALES,
        ),
        train=TrainSettings(batch_size=8, steps=10000, learning_rate=0.005, scales=_SCALES),
        search_pixels=None,
        train_pixels=None,
        search_scale=0.5,
        weights="imagenet",
    ),
    # Appendix A, PASCAL-Context with MobileNetV2: 62 and 249 batches of 16 are one pass over the 20 % and the 80 % of its
    # 4998 images.
    Preset.PAPER: PresetSettings(
        search=SearchSettings(
            batch_size=16,
            warmup_steps=2000,
            weight_steps=40000,
            weight_steps_per_cycle=249,
            arch_steps_per_cycle=62,
            learning_rate=0.005,
            scales=_SCALES,
        ),
        train=TrainSettings(batch_size=16, steps=40000, learning_rate=0.005, scales=_SCALES),
        search_pixels=None,
        train_pixels=None,
        search_scale=0.5,
        whole_passes=True,
        weights="imagenet",
    ),
}


BudgetText = Annotated[str, AfterValidator(lambda text: parse_budget(text).text)]
"""A budget as text, without the blanks that an earlier version kept; CostError is a ValueError, so pydantic tells it."""


class RunConfig(Settings):
    """Everything that decides a run's results. Sizes are (height, width).

    `table_digest` tells the user's own cost table from others (`bmtas.tables.digest`); None where there was none.
    """

    schema_version: Literal[1] = 1
    data: str
    data_fingerprint: str
    tasks: list[dict[str, Any]]
    backbone: str
    weights: str
    budgets: list[BudgetText]
    preset: Preset
    seed: int = Field(ge=0, lt=2**32)
    deploy_size: tuple[int, int]
    search_size: tuple[int, int]
    train_size: tuple[int, int]
    search: SearchSettings
    train: TrainSettings
    table_digest: str | None = None
    decode: Decode = Decode.BEST
    method: Method = Method.BRANCHED
    reference: dict[str, Any] | None = None  # the architecture that the method "permuted" permutes
    own: dict[str, Any] = Field(default_factory=dict)  # the method's own settings (`--set`), all of them as resolved

    def task_list(self) -> tuple[Task, ...]:
        """Return the tasks, in output order."""
        return tuple(Task.from_json(data) for data in self.tasks)

    def flat(self) -> dict[str, Any]:
        """Return all settings by name as plain JSON values, those of search and training as `search.KEY` and `train.KEY`."""
        data = self.model_dump(mode="json")
        search, train = data.pop("search"), data.pop("train")
        return data | {f"search.{k}": v for k, v in search.items()} | {f"train.{k}": v for k, v in train.items()}


def reduced_size(size: tuple[int, int], pixels: int | None, multiple: int = 16) -> tuple[int, int]:
    """Return `size` (height, width) scaled down to at most about `pixels`, each side a multiple of `multiple`.

    The aspect is kept as far as the multiples allow; sides do not fall below two multiples; None keeps the size.
    """
    height, width = size
    if pixels is None or height * width <= pixels:
        return size
    scale = (pixels / (height * width)) ** 0.5

    def rounded(side: int) -> int:
        wanted = max(2, round(side * scale / multiple)) * multiple
        return wanted if wanted <= side else side // multiple * multiple or side

    return rounded(height), rounded(width)
