"""Lists of class names in the forms in which people keep them: text, JSON, tables."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bmtas.data.proposal.words import split_of, words_of

_TITLES = frozenset("class classes classnames name names label labels labelmap id2label categories category".split())
_KEYS = ("classes", "names", "labels", "id2label", "categories")
_MOST = 255


def read_class_names(root: Path, texts: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Return the lists of class names among `texts`, by the place where each stands; names in the order of their ids.

    An id without a name gets `class_<id>`. What cannot be read as a list of names is passed over.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path in texts:
        if not _TITLES & set(words_of(path.stem)) or split_of(path.stem):
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError, ValueError, csv.Error):
            for note, names in _read(path).items():
                if 2 <= len(names) <= _MOST:
                    found[path.relative_to(root).as_posix() + note] = names
    return found


def for_stream(
    names: Mapping[str, tuple[str, ...]], words: Iterable[str], others: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the lists that may be those of a task: first those whose place bears one of its `words`, none of another's."""
    mine, theirs = {word.lower() for word in words}, {word.lower() for word in others}
    theirs -= mine
    own: dict[str, tuple[str, ...]] = {}
    free: dict[str, tuple[str, ...]] = {}
    for title, found in names.items():
        bears = {
            word for part in Path(title.split(" ")[0]).with_suffix("").parts for word in (part.lower(), *words_of(part))
        }
        if bears & mine - _TITLES:
            own[title] = found
        elif not bears & (theirs - _TITLES):
            free[title] = found
    return own | free


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        names = _from_json(json.loads(text))
        return {"": names} if names else {}
    if path.suffix.lower() == ".csv":
        return _from_table(list(csv.reader(text.splitlines(), skipinitialspace=True)))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)\s*[:,;\s]\s*(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return {"": _in_order({int(match[1]): match[2] for match in numbered if match})}
    return {"": tuple(lines)}


def _from_json(data: object) -> tuple[str, ...]:
    if isinstance(data, dict):
        for key in _KEYS:
            if key in data and isinstance(data[key], (list, dict)):
                return _from_json(data[key])
        if all(str(key).isdecimal() for key in data):
            return _in_order({int(key): str(value) for key, value in data.items()})
        if all(isinstance(value, int) for value in data.values()):
            return _in_order({value: str(key) for key, value in data.items()})
    elif isinstance(data, list) and all(isinstance(item, str) for item in data):
        return tuple(data)
    elif isinstance(data, list) and all(isinstance(item, dict) and {"id", "name"} <= item.keys() for item in data):
        return _in_order({int(item["id"]): str(item["name"]) for item in data})
    return ()


def _from_table(rows: list[list[str]]) -> dict[str, tuple[str, ...]]:
    """Return for each column of numbers that has names at its right, the names in the order of the numbers."""
    found: dict[str, tuple[str, ...]] = {}
    if len(rows) < 3:
        return found
    head, body = rows[0], [row for row in rows[1:] if row]
    for column in range(len(head) - 1):
        pairs = [(row[column].strip(), row[column + 1].strip()) for row in body if len(row) > column + 1]
        if len(pairs) < len(body) or not all(number.isdecimal() and name for number, name in pairs):
            continue
        one_to_one = len(set(pairs)) == len({number for number, _ in pairs}) == len({name for _, name in pairs})
        if one_to_one and not all(re.fullmatch(r"[\d.eE+-]+", name) for _, name in pairs):
            names = _in_order({int(number): name for number, name in pairs})
            found[f" ({head[column]}, {head[column + 1]})"] = names
    return found


def _in_order(names: Mapping[int, str]) -> tuple[str, ...]:
    if not names or min(names) < 0 or max(names) > _MOST:
        return ()
    return tuple(names.get(number, f"class_{number}") for number in range(max(names) + 1))
