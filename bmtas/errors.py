"""The errors a user can cause or meet, each with the exit code that the command line answers with.

Library code raises these and never prints or exits; `cli.main` turns them into one message and the code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BmtasError(Exception):
    """An expected failure: the message says what was found, the rule and the fix."""

    exit_code = 1


class UsageError(BmtasError):
    """Input from outside breaks a rule: an argument, a manifest, an image, a stored file."""

    exit_code = 2


class LostDataError(UsageError):
    """An image or label could be read when a run began, and cannot be now; what was learned so far is not at fault."""


class EnvironmentProblem(BmtasError):
    """This machine lacks something: a package, weights, space on the disk, a device."""

    exit_code = 3


class BuildError(BmtasError):
    """An artefact could not be built or is not what was asked for."""

    exit_code = 4


class ParityError(BmtasError):
    """An exported network does not compute what the trained network computes."""

    exit_code = 5


class BudgetError(BmtasError):
    """No network of the search space is within the budget."""

    exit_code = 6


class DivergedError(BmtasError):
    """Training met a loss that is not a finite number; the last good checkpoint is in place."""

    exit_code = 1


_MANY = 20
"""So many names are a list that nobody reads where the right one is named already."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown `name`: the nearest known one, then all of them unless they are many."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    if suggestion and len(names) > _MANY:
        return suggestion.strip()
    return f"{suggestion}known: {', '.join(names)}"
