import subprocess
import sys
from pathlib import Path

import pytest

import costs

ROOT = Path(costs.__file__).parent.parent


def test_everything_but_the_expected_cost_works_without_torch() -> None:
    code = (
        "import sys, costs, costs.units, costs.table, costs.partitions, costs.decode, costs.controller\n"
        "costs.best_architecture, costs.CostTable, costs.Multiplier, costs.parse_budget\n"
        "assert 'torch' not in sys.modules\n"
        "costs.expected_cost\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_is_there_and_listed() -> None:
    for name in costs.__all__:
        assert getattr(costs, name).__name__ if name != "Grouping" else costs.Grouping
    assert set(costs.__all__) <= set(dir(costs))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        costs.nothing  # noqa: B018
