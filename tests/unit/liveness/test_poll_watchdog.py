"""When a worker counts as silent: only while it beats, and ought to ask for messages."""

from orchestrator.transport.liveness.poll_watchdog import PollWatchdog


def beat(polling: PollWatchdog, *at_s: float, polled_at_s: float = 0.0, should_poll: bool = True) -> float:
    for now_s in at_s:
        polling.after_heartbeat(now_s, polled_at_s, should_poll)
    return polling.not_polling_s


def test_silence_is_the_time_in_which_heartbeats_passed_and_nothing_was_asked_for() -> None:
    assert beat(PollWatchdog(0.5), 1.0, 1.5, 2.0, 2.5) == 1.5


def test_whoever_asks_or_need_not_ask_is_not_silent() -> None:
    polling = PollWatchdog(0.5)
    assert beat(polling, 1.0, 1.5, 2.0) > 0
    assert beat(polling, 2.5, polled_at_s=2.4) == 0.0
    assert beat(polling, 3.0, 3.5, polled_at_s=2.4) == 1.0
    assert beat(polling, 4.0, polled_at_s=2.4, should_poll=False) == 0.0


def test_a_process_that_was_stopped_for_an_hour_was_silent_for_a_heartbeat_or_two() -> None:
    polling = PollWatchdog(0.5)
    beat(polling, 1.0, 1.5, 2.0)
    assert beat(polling, 3602.0) == 2.0
