"""Lists of class names in the forms in which people keep them: text, JSON, tables."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from bmtas.data.proposal.words import split_of, words_of

_TITLES = frozenset("class classes classnames name names label labels labelmap id2label categories category".split())
_KEYS = ("classes", "names", "labels", "id2label", "categories")
_MOST = 255
_ASIDE = ": not understood as a list of class names and left aside"


class _NotNamesError(Exception):
    """What is in a file is no list of class names; the message says why."""


def read_class_names(root: Path, texts: Sequence[Path]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the lists of class names among `texts`, by the place where each stands, and remarks on what was left aside.

    Names stand in the order of their ids; an id without a name gets `class_<id>`. A file that is called after classes and
    holds something else is left aside; a table without a column of numbers beside names may be a task's, and has no remark.
    """
    found: dict[str, tuple[str, ...]] = {}
    aside: list[str] = []
    for path in texts:
        if not _TITLES & set(words_of(path.stem)) or split_of(path.stem):
            continue
        place = path.relative_to(root).as_posix()
        try:
            found |= {place + note: _bounded(names) for note, names in _read(path).items()}
        except RecursionError:
            aside.append(f"{place}{_ASIDE}: nested too deeply")
        except (OSError, ValueError, csv.Error, _NotNamesError) as error:
            aside.append(f"{place}{_ASIDE}: {error}")
    return found, aside


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
        return {"": _from_json(json.loads(text, object_pairs_hook=_once))}
    if path.suffix.lower() == ".csv":
        return _from_table(list(csv.reader(text.splitlines(), skipinitialspace=True)))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)\s*[:,;\s]\s*(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return {"": _in_order([(int(match[1]), match[2]) for match in numbered if match])}
    return {"": tuple(lines)}


def _from_json(data: object) -> tuple[str, ...]:
    """Return the names in one of the forms [name], {id: name}, {name: id}, [{id, name}], or in any of these below a key such as `classes`.

    Raises _NotNamesError for anything else.
    """
    below = [data[key] for key in _KEYS if key in data] if isinstance(data, dict) else []
    if below:
        return _from_json(next((inner for inner in below if isinstance(inner, (list, dict))), None))
    if isinstance(data, list) and data and all(isinstance(item, str) for item in data):
        return tuple(data)
    pairs: list[tuple[object, object]] = []
    if isinstance(data, dict):
        turned = not all(str(key).isdecimal() for key in data)
        pairs = [(value, key) if turned else (int(key), value) for key, value in data.items()]
    elif isinstance(data, list) and all(isinstance(item, dict) for item in data):
        pairs = [(_number(item.get("id")), item.get("name")) for item in data]
    numbered = [(number, name) for number, name in pairs if type(number) is int and isinstance(name, str)]
    if not pairs or len(numbered) < len(pairs):
        raise _NotNamesError("neither names, nor numbers with a name each")
    return _in_order(numbered)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON. Raises _NotNamesError where a key stands twice, of which Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotNamesError("a key stands twice in one object")
    return found


def _bounded(names: tuple[str, ...]) -> tuple[str, ...]:
    if not 2 <= len(names) <= _MOST:
        raise _NotNamesError(f"{len(names)} names, not 2 to {_MOST}")
    return names


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


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
            names = _in_order({(int(number), name) for number, name in pairs})
            found[f" ({head[column]}, {head[column + 1]})"] = names
    return found


def _in_order(pairs: Collection[tuple[int, str]]) -> tuple[str, ...]:
    """Return the names by id. Raises _NotNamesError where an id has two names, or is none."""
    names = dict(pairs)
    twice = next((number for number, count in Counter(number for number, _ in pairs).items() if count > 1), None)
    if twice is not None:
        raise _NotNamesError(f"{twice} has more than one name")
    wrong = next((number for number in names if not 0 <= number <= _MOST), None)
    if wrong is not None:
        raise _NotNamesError(f"{wrong} is no id of a class, which are 0 to {_MOST}")
    return tuple(names.get(number, f"class_{number}") for number in range(max(names) + 1))
