"""A signal is answered at once, and acted on between two steps."""

from __future__ import annotations

import os
import signal

import pytest

from bmtas.interrupt import stop_between_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_answered_at_once_and_the_second_interrupts(number: signal.Signals) -> None:
    answers: list[str] = []
    with stop_between_steps(lambda: answers.append("heard")) as stop:
        assert not answers
        signal.raise_signal(number)
        assert (answers, stop.signal) == (["heard"], number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert answers == ["heard"]


def test_an_answer_that_meets_a_stream_in_use_does_not_stop_the_step() -> None:
    def fail() -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with stop_between_steps(fail) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT


def test_a_forked_process_says_nothing() -> None:
    reading, writing = os.pipe()

    def tell() -> None:
        os.write(writing, b"x")

    with stop_between_steps(tell):
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGINT)
            os._exit(0)
        os.waitpid(child, 0)
        signal.raise_signal(signal.SIGINT)
    os.close(writing)
    assert os.read(reading, 10) == b"x"  # that of this process alone
    os.close(reading)
