"""What a user brings of her own: a backbone and a kind of task, known to all commands once a plugin has registered them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bmtas.errors import UsageError
from bmtas.kinds import Kind, Metric, add_kind
from bmtas.tasks import Task, TaskKind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bmtas.networks.backbone import Backbone


def register_backbone(name: str, model: Callable[[], nn.Module] | Backbone) -> Backbone:
    """Let `--backbone NAME` be a backbone of one's own, and return it.

    `model` makes a convolutional classifier, images (N, 3, H, W) to (N, classes), with random weights; torch.fx must be able to trace it, and each
    block needs a batch normalisation. It is cut into a stem and layers where one block ends and another begins. Its pretrained weights come by
    `--weights FILE`, a state dict with its own names. Or it is a `Backbone`, cut by hand. Raises UsageError where it cannot be cut,
    or the name is that of a backbone of the house.
    """
    from bmtas.networks.backbone import Backbone, add_backbone
    from bmtas.networks.cutting import cut_backbone

    backbone = model if isinstance(model, Backbone) else cut_backbone(name, model)
    if backbone.name != name:
        raise UsageError(f"the backbone is called {backbone.name!r}, but registered as {name!r}; give it one name")
    add_backbone(backbone)
    return backbone


def register_kind(
    name: str,
    *,
    like: TaskKind | str,
    metric: str,
    higher_is_better: bool,
    loss: Callable[[Task, Tensor, Tensor, Tensor], Tensor],
    score: Callable[[Task], Metric],
) -> Kind:
    """Let `kind: NAME` in a manifest be a kind of task of one's own, and return it; the arguments are those of `bmtas.kinds.Kind`.

    Raises UsageError if `like` is no kind, or the name is that of a kind of the house.
    """
    kind = Kind(name, TaskKind.parse(like) if isinstance(like, str) else like, metric, higher_is_better, loss, score)
    add_kind(kind)
    return kind
