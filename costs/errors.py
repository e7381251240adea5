"""The errors of this package. What a command line answers with is decided outside: there are no exit codes here."""

from __future__ import annotations


class CostError(ValueError):
    """A quantity, a table, a probability or a budget breaks a rule: the message says found, rule and fix."""


class BudgetBelowReach(CostError):
    """No architecture is within a budget, or within all of them together."""
