"""Which options of `bmtas search` mean something to which method: refused where they are typed, left out where many methods are run. Needs no torch."""

from __future__ import annotations

from bmtas.config import Method

_OF_LEARNING = frozenset(
    (
        *("--warmup-steps", "--search-steps", "--search-learning-rate", "--resource-weight", "--no-resource-term"),
        *("--search-size", "--no-resizing"),
    )
)
"""Options that mean something only to methods that learn architecture parameters."""
_OF_TREES = frozenset(("--estimator", "--activation-checkpointing", "--cost-estimate", "--decode"))
"""Those that of all methods the branched search alone has."""


def means_nothing(method: Method, option: str) -> bool:
    """Say whether an option of `bmtas search` means nothing to the method, which would refuse it, or can only refuse by it."""
    if option == "--set":
        return method.one_module or method is Method.BRANCHED  # they have no settings of their own
    if option == "--budget":  # they cost what they cost; a budget that is typed is held against it
        return method in (Method.SINGLE, Method.SHARED)
    if method is Method.BRANCHED:
        return False
    return option in (_OF_TREES if method.searches else _OF_LEARNING | _OF_TREES)
