"""Tasks: what the network predicts for an image, and the task sets that papers use. Needs no torch.

Labels have one in-memory form per kind, whatever file they came from (H, W: the image's size):

| kind | array | invalid |
|---|---|---|
| segmentation | (H, W) uint8, class ids from 0 | 255 |
| binary, edge | (H, W) uint8, 0 or 1 | 255 |
| normals | (H, W, 3) float32, unit vectors, x right | (0, 0, 0) |
| depth | (H, W) float32, metres | NaN |
| regression | (H, W) float32 | NaN |
| classification | () int64, class id from 0 | -1 |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from bmtas.errors import UsageError, nearest

IGNORE = 255
"""Label value of pixels that count neither in losses nor in metrics (segmentation, binary, edge)."""


class TaskKind(str, Enum):
    """The kinds of tasks; the kind decides the head, the loss, the metric and the form of the labels."""

    SEGMENTATION = "segmentation"
    BINARY = "binary"
    EDGE = "edge"
    NORMALS = "normals"
    DEPTH = "depth"
    REGRESSION = "regression"
    CLASSIFICATION = "classification"

    @classmethod
    def parse(cls, text: str, others: Iterable[str] = ()) -> TaskKind:
        """Return the kind called `text`. Raises UsageError with the nearest known kind, `others` among them."""
        try:
            return cls(text)
        except ValueError:
            raise UsageError(
                f"unknown task kind {text!r}; {nearest(text, [*(k.value for k in cls), *others])}; `bmtas --plugin FILE ...` brings one of your own"
            ) from None


def invalid_value(kind: TaskKind) -> float:
    """Return what pixels without a label hold in a label of `kind`, as in the table above; in all channels of normals."""
    if kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return float("nan")
    return 0.0 if kind is TaskKind.NORMALS else float(IGNORE)


# The paper's loss weights (appendix A) for the kinds it trains. Saliency is our kind `binary`, human parts
# has weight 2 there and is given so in the task sets below. What the paper has not is weighted 1.
LOSS_WEIGHTS = {TaskKind.BINARY: 5.0, TaskKind.EDGE: 50.0, TaskKind.NORMALS: 10.0}

# Metric of each kind: (name, whether higher is better).
METRICS = {
    TaskKind.SEGMENTATION: ("miou", True),
    TaskKind.BINARY: ("max_iou", True),
    TaskKind.EDGE: ("ods_f", True),
    TaskKind.NORMALS: ("mean_angle_deg", False),
    TaskKind.DEPTH: ("rmse_m", False),
    TaskKind.REGRESSION: ("rmse", False),
    TaskKind.CLASSIFICATION: ("top1", True),
}


# What PyTorch's modules call their own attributes, which parameters cannot be named after; a test compares.
RESERVED_NAMES = frozenset(
    (
        "image T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double "
        "dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items "
        "keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop "
        "register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
        "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
        "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
        "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty "
        "train training type update values xpu zero_grad"
    ).split()
)


@dataclass(frozen=True)
class OwnKind:
    """What is known of a kind that a user has brought (`bmtas.adapters`) wherever its code is not."""

    name: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: a name, a kind, the number of classes where the kind has classes, a loss weight.

    `edge_positive_weight` is the weight of edge pixels in the loss of an edge task; the others get the rest to 1
    (paper, appendix A: 0.95 on PASCAL-Context, 0.8 on NYUD-v2). `edge_tolerance` is how far a predicted edge pixel may lie
    from the true one, as a share of the image's diagonal (0.0075 on PASCAL-Context, 0.011 on NYUD-v2). With `own` the loss and the
    metric are a user's, and `kind` is the one whose labels it has.
    """

    name: str
    kind: TaskKind
    classes: tuple[str, ...] = ()
    loss_weight: float = 1.0
    edge_positive_weight: float = 0.95
    edge_tolerance: float = 0.0075
    own: OwnKind | None = None

    def __post_init__(self) -> None:
        """Check what the kind asks for. Raises UsageError."""
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise UsageError(
                f"task name {self.name!r}: only letters, digits, '-' and '_' are allowed, because the name "
                "reaches file names, weights and the outputs of the exported network; rename the task"
            )
        if self.name in RESERVED_NAMES or self.name.startswith("_"):
            raise UsageError(
                f"a task cannot be called {self.name!r}: parts of a network go by that name already (the input is 'image', "
                f"and PyTorch's modules have methods such as 'type' and 'train'); rename it, for example {self.name.strip('_')}_task"
            )
        if self.has_classes and len(self.classes) < 2:
            raise UsageError(
                f"task {self.name!r} of kind {self.kind.value} has {len(self.classes)} classes; it needs at least 2: "
                "name them under `classes`"
            )
        if self.kind is TaskKind.SEGMENTATION and len(self.classes) > IGNORE:
            raise UsageError(
                f"task {self.name!r} has {len(self.classes)} classes; at most {IGNORE} fit beside the ignore value"
            )
        if not 0 < self.loss_weight < float("inf"):
            raise UsageError(
                f"task {self.name!r} has loss weight {self.loss_weight}; it must be a finite number above 0"
            )

    @property
    def has_classes(self) -> bool:
        """Whether the kind predicts one of several classes."""
        return self.kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION)

    @property
    def channels(self) -> int:
        """Channels of the raw prediction."""
        if self.has_classes:
            return len(self.classes)
        return 3 if self.kind is TaskKind.NORMALS else 1

    @property
    def dense(self) -> bool:
        """Whether there is one prediction per pixel, (N, channels, H, W), rather than (N, channels)."""
        return self.kind is not TaskKind.CLASSIFICATION

    @property
    def metric(self) -> str:
        """Name of the metric that Delta_m compares."""
        return METRICS[self.kind][0] if self.own is None else self.own.metric

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher metric is better."""
        return METRICS[self.kind][1] if self.own is None else self.own.higher_is_better

    def to_json(self) -> dict[str, Any]:
        """Return the task as plain JSON values."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "classes": list(self.classes),
            "loss_weight": self.loss_weight,
            "edge_positive_weight": self.edge_positive_weight,
            "edge_tolerance": self.edge_tolerance,
            **({} if self.own is None else {"own": asdict(self.own)}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """Inverse of `to_json`. Raises UsageError for what is none."""
        try:
            fields = dict(data)
            fields["kind"] = TaskKind.parse(fields["kind"])
            fields["classes"] = tuple(fields["classes"])
            if "own" in fields:
                fields["own"] = OwnKind(**fields["own"])
            if not all(isinstance(name, str) for name in (fields["name"], *fields["classes"])):
                raise TypeError("names are texts")  # noqa: TRY301
            return cls(**fields)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"{data!r} is no task ({type(error).__name__}: {error}); expected what bmtas writes"
            ) from None


def select_tasks(tasks: tuple[Task, ...], names: list[str] | None) -> tuple[Task, ...]:
    """Return the tasks called `names`, in that order; all of them for None. Raises UsageError on unknown names."""
    if names is None:
        return tasks
    known = {t.name: t for t in tasks}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown task {name!r}; {nearest(name, known)}")
    if len(set(names)) < len(names) or not names:
        raise UsageError(f"tasks {', '.join(names) or '(none)'}: name each task once, and at least one")
    return tuple(known[name] for name in names)


_VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
_PARTS = "background head torso upper_arm lower_arm upper_leg lower_leg".split()
_NYU40 = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard "
    "person night_stand toilet sink lamp bathtub bag other_structure other_furniture other_prop"
).split()

TASK_SETS: dict[str, tuple[Task, ...]] = {
    # Paper, section 4.1 and appendix A; VOC's 21 classes, 6 human parts and background.
    "pascal-context": (
        Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=tuple(_VOC), loss_weight=1),
        Task(name="parts", kind=TaskKind.SEGMENTATION, classes=tuple(_PARTS), loss_weight=2),
        Task(name="saliency", kind=TaskKind.BINARY, loss_weight=5),
        Task(name="normals", kind=TaskKind.NORMALS, loss_weight=10),
        Task(name="edge", kind=TaskKind.EDGE, loss_weight=50, edge_positive_weight=0.95),
    ),
    # Paper, section 4.1 and appendix A; the 40 classes of Gupta et al. 2013.
    "nyud-v2": (
        Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=tuple(_NYU40), loss_weight=1),
        Task(name="depth", kind=TaskKind.DEPTH, loss_weight=1),
        Task(name="normals", kind=TaskKind.NORMALS, loss_weight=10),
        Task(name="edge", kind=TaskKind.EDGE, loss_weight=50, edge_positive_weight=0.8, edge_tolerance=0.011),
    ),
}
"""Known task sets: what `bmtas profile --tasks NAME` counts without any data."""
