import math
from decimal import ROUND_CEILING, ROUND_FLOOR

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costs import Budget, CostError, Resource, format_quantity, parse_budget


@pytest.mark.parametrize(
    ("text", "resource", "value"),
    [
        ("9GMAdds", Resource.MADDS, 9e9),
        ("9 MAdds", Resource.MADDS, 9.0),
        ("9MAdds", Resource.MADDS, 9.0),
        ("9MMAdds", Resource.MADDS, 9e6),
        (" 4.1 Gmadds", Resource.MADDS, 4_100_000_000.0),
        ("4.5MParams", Resource.PARAMS, 4.5e6),
        ("4.5 M params", Resource.PARAMS, 4.5e6),
        ("250kPARAMS", Resource.PARAMS, 250e3),
        ("250KParams", Resource.PARAMS, 250e3),
        ("1.5TMAdds", Resource.MADDS, 1.5e12),
        ("1e9MAdds", Resource.MADDS, 1e9),
        ("2.5E-1GMAdds", Resource.MADDS, 2.5e8),
        (".5GMAdds", Resource.MADDS, 5e8),
        ("12ms", Resource.LATENCY_MS, 12.0),
        ("12 MS", Resource.LATENCY_MS, 12.0),
        ("500us", Resource.LATENCY_MS, 0.5),
        ("500 µs", Resource.LATENCY_MS, 0.5),
        ("0.012s", Resource.LATENCY_MS, 12.0),
        ("40mJ", Resource.ENERGY_MJ, 40.0),
        ("40 mJ", Resource.ENERGY_MJ, 40.0),
        ("0.04J", Resource.ENERGY_MJ, 40.0),
        ("250uJ", Resource.ENERGY_MJ, 0.25),
        ("250 µJ", Resource.ENERGY_MJ, 0.25),
        ("250 μJ", Resource.ENERGY_MJ, 0.25),
    ],
)
def test_budgets_are_read_in_base_units(text: str, resource: Resource, value: float) -> None:
    assert parse_budget(text) == Budget(resource, value, text.replace(" ", ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9GFLOPs", ["'GFLOPs'", "MAdds are meant", "counts 1", "2x", "9GMAdds"]),
        ("9GMACs", ["MACs are the same as MAdds", "9GMAdds"]),
        ("9", ["no unit", "9GMAdds"]),
        ("", ["no number", "9GMAdds"]),
        ("GMAdds", ["no number"]),
        ("9apples", ["'apples'", "known: MAdds, Params", "ms"]),
        ("40MJ", ["'MJ'", "uJ, mJ or J", "MJ would be a million joules"]),
        ("40mj", ["'mj'", "uJ, mJ or J (case matters"]),
        ("3kJ", ["'kJ'", "uJ, mJ or J"]),
        ("2 joules", ["'joules'", "uJ, mJ or J"]),
        ("0mJ", ["found 0", "positive and finite"]),
        ("9gMAdds", ["'g' before MAdds", "k, M, G, T"]),
        ("0GMAdds", ["found 0", "positive and finite"]),
        ("-3ms", ["found -3", "positive and finite"]),
        ("nanGMAdds", ["found nan", "positive and finite"]),
        ("inf ms", ["found inf", "positive and finite"]),
        ("1e400MAdds", ["positive and finite"]),
        ("1e999999999999999999999MAdds", ["positive and finite"]),
        ("1e-400MAdds", ["positive and finite"]),
    ],
)
def test_a_bad_budget_is_refused_with_what_was_found_the_rule_and_an_example(text: str, words: list[str]) -> None:
    with pytest.raises(CostError) as caught:
        parse_budget(text)
    for word in [repr(text), *words, "write for example"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("value", "resource", "text"),
    [
        (9e9, Resource.MADDS, "9.00 GMAdds"),
        (4.5e6, Resource.PARAMS, "4.50 MParams"),
        (12.3, Resource.LATENCY_MS, "12.3 ms"),
        (12.3, Resource.ENERGY_MJ, "12.3 mJ"),
        (0.01234, Resource.ENERGY_MJ, "0.0123 mJ"),
        (0.01234, Resource.LATENCY_MS, "0.0123 ms"),
        (1234.4, Resource.LATENCY_MS, "1234 ms"),
        (999.9996e6, Resource.MADDS, "1.00 GMAdds"),
        (9.9999, Resource.LATENCY_MS, "10.0 ms"),
        (154.6e9, Resource.MADDS, "155 GMAdds"),
        (2e15, Resource.MADDS, "2000 TMAdds"),
        (1e30, Resource.MADDS, "1.00e+30 MAdds"),
        (0.0, Resource.PARAMS, "0 Params"),
        (-1.5e3, Resource.PARAMS, "-1.50 kParams"),
        (math.inf, Resource.MADDS, "inf MAdds"),
    ],
)
def test_quantities_are_written_with_three_digits_and_a_prefix(value: float, resource: Resource, text: str) -> None:
    assert format_quantity(value, resource) == text


def test_digits_and_rounding_can_be_chosen() -> None:
    assert format_quantity(6.03412e9, Resource.MADDS, digits=4, rounding=ROUND_CEILING) == "6.035 GMAdds"
    assert format_quantity(6.03412e9, Resource.MADDS, digits=4, rounding=ROUND_FLOOR) == "6.034 GMAdds"


@given(st.sampled_from(list(Resource)), st.floats(1e-3, 1e14))
def test_what_is_written_reads_back_to_three_digits(resource: Resource, value: float) -> None:
    read = parse_budget(format_quantity(value, resource))
    assert read.resource is resource
    assert read.value == pytest.approx(value, rel=5.001e-3)


@given(st.sampled_from(list(Resource)), st.floats(1e-3, 1e14))
def test_rounding_up_never_falls_below_the_value(resource: Resource, value: float) -> None:
    assert parse_budget(format_quantity(value, resource, digits=4, rounding=ROUND_CEILING)).value >= value * (1 - 1e-15)


def test_a_resource_is_its_json_key() -> None:
    assert f"{Resource.MADDS}" == "madds"
    assert Resource("latency_ms") is Resource.LATENCY_MS
