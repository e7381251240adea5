"""Any convolutional classification network of torchvision as a backbone, by its name: `resnet18`, `mnasnet0_5`."""

from __future__ import annotations

from functools import lru_cache, partial

from torch import nn

from bmtas.networks.backbone import Backbone
from bmtas.networks.cutting import cut_backbone
from bmtas.torchvision_remedy import import_torchvision


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks. Raises EnvironmentProblem where it is not installed."""
    models = import_torchvision().models
    return list(models.list_models(module=models))


@lru_cache(maxsize=16)
def torchvision_backbone(name: str) -> Backbone:
    """Return the backbone made of torchvision's model `name`. Raises UsageError where that cannot be cut into layers."""
    return cut_backbone(name, partial(_model, name), _weights_name(name))


def _model(name: str) -> nn.Module:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # else they warn of a slow start
    model: nn.Module = import_torchvision().models.get_model(name, weights=None, **extra).eval()
    return model


def _weights_name(name: str) -> str:
    weights = import_torchvision().models.get_model_weights(name)
    return f"{weights.__name__}.{weights.DEFAULT.name}"
