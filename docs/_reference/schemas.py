"""The reference of the manifest and of a run's configuration, from the models that read them."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from _reference.text import escaped, table
from pydantic import BaseModel

from bmtas.config import PRESETS, RunConfig, SearchSettings, TrainSettings
from bmtas.data import manifest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own-data.yaml"
_HIDDEN = ("own_kind",)  # filled by the reader of a manifest, never written


def keys_of(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Return type and default of each key of a model, in words, from its JSON schema."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    told = {}
    for name, field in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        told[name] = (_type(field, schema.get("$defs", {})), default)
    return {name: value for name, value in told.items() if name not in _HIDDEN}


def _type(field: dict[str, Any], known: dict[str, Any]) -> str:
    if "$ref" in field:
        target = known[field["$ref"].rsplit("/", 1)[1]]
        return ", ".join(f"`{value}`" for value in target["enum"]) if "enum" in target else "table"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part, known) for part in field["anyOf"]))
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        one = _type(items[0], known)
        return f"list of {len(items)}: {one}" if "prefixItems" in field else f"list of {one}"
    if field.get("type") == "object":
        return (
            f"mapping to {_type(field['additionalProperties'], known)}"
            if isinstance(field.get("additionalProperties"), dict)
            else "mapping"
        )
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " ".join(f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field)
    return " ".join(part for part in (str(field.get("type", "any")), limits) if part)


def remarks(model: type[BaseModel]) -> dict[str, str]:
    """Return what the comments of a model's source say of its fields: beside a field, or above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(model).splitlines():
        comment = re.fullmatch(r"    # (.*)", line)
        field = re.match(r"    (\w+): [^#]*(?:# (.*))?$", line)
        if comment:
            above.append(comment[1])
            continue
        if field:
            found[field[1]] = " ".join([*above, *([field[2]] if field[2] else [])])
        above = []
    return found


def _rows(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", kind, default) for name, (kind, default) in keys_of(model).items()]


def manifest_page() -> str:
    """Return the page of the manifest: a commented example, all keys, and the schema."""
    kinds = [
        (
            f"`{kind.value}`",
            ", ".join(f"`{key}`" for key in keys),
            ", ".join(f"`{name}`" for name in manifest.ENCODINGS[kind]),
        )
        for kind, keys in manifest._KEYS.items()
    ]
    schema = json.dumps(manifest.ManifestSpec.model_json_schema(), indent=2)
    head = ("key", "value", "default")
    return "\n".join(
        (
            "# The manifest",
            "",
            "A YAML file that describes a folder of images and labels. [`bmtas init`](../init.md) writes one, `bmtas data check` reads it. Unknown keys are refused.",
            "",
            "## All of it, with comments",
            "",
            "This is [examples/own-data.yaml](../examples/own-data.yaml).",
            "",
            "```yaml",
            EXAMPLE.read_text(encoding="utf-8").rstrip(),
            "```",
            "",
            "## Top",
            "",
            table(head, _rows(manifest.ManifestSpec)),
            "## images",
            "",
            table(head, _rows(manifest.ImagesSpec)),
            "## tasks",
            "",
            "Each task has a name and these keys. Which of them mean something depends on its kind; all take `kind`, `encoding` and `loss_weight`.",
            "",
            table(head, _rows(manifest.TaskSpec)),
            table(("kind", "further keys", "encodings, the default first"), kinds),
            "What `ignore`, `encoding` and `loss_weight` are where they are missing stands in the example above.",
            "",
            "## JSON schema",
            "",
            "What the values are once they are read; texts such as `4` for four classes are converted first.",
            "",
            '??? note "The schema"',
            "",
            "    ```json",
            *(f"    {line}" for line in schema.splitlines()),
            "    ```",
            "",
        )
    )


def configuration_page() -> str:
    """Return the page of `run.json`: its keys, and what the presets put into them."""
    return "\n".join(
        (
            "# A run's configuration: run.json",
            "",
            "Everything that decides a run's results, as resolved when it began. Unknown keys are refused, and a later schema, too.",
            "",
            table(("key", "value", "default"), _rows(RunConfig)),
            "Sizes are [height, width].",
            "",
            *_settings("search", SearchSettings),
            *_settings("train", TrainSettings),
            "From Python these are the names for `search_settings` and `train_settings` of [`bmtas.search`](python.md#bmtas-search).",
            "",
        )
    )


def _settings(name: str, model: type[BaseModel]) -> list[str]:
    told = remarks(model)
    rows = []
    for key, (kind, _) in keys_of(model).items():
        values = (getattr(preset, name).model_dump(mode="json")[key] for preset in PRESETS.values())
        rows.append((f"`{key}`", kind, *(f"`{json.dumps(value)}`" for value in values), escaped(told.get(key, ""))))
    header = ("key", "value", *(preset.value for preset in PRESETS), "")
    return [f"## {name}", "", table(header, rows)]
