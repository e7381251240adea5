"""The house's one stopwatch: how long to warm up and to measure, and what the numbers support. Needs no torch."""

from export.stopwatch.interleaved import Ratio, apart_ratio, in_turn_difference, in_turn_ratio, ratio
from export.stopwatch.measurement import Measurement, judge, summarise
from export.stopwatch.paced import Paced, pace
from export.stopwatch.rules import RULES, Rules, UnstableError
from export.stopwatch.statistics import Interval
from export.stopwatch.timing import Clock, Timed, timed
from export.stopwatch.watch import measure, watch

__all__ = [
    "Clock",
    "Interval",
    "Measurement",
    "Paced",
    "RULES",
    "Ratio",
    "Rules",
    "Timed",
    "UnstableError",
    "apart_ratio",
    "in_turn_difference",
    "in_turn_ratio",
    "judge",
    "measure",
    "pace",
    "ratio",
    "summarise",
    "timed",
    "watch",
]
