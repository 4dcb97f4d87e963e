from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from typing import Any

import pytest

from django_ilert_oauth.flows._bulk import rate_limiter
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter

MINUTE = 60.0


class Clock(threading.Event):
    """Time that passes only while somebody waits, and what happens meanwhile."""

    now = 1000.0
    meanwhile: Callable[[], None] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        self.now += timeout or 0
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limiter, "clock", lambda: clock.now)
    return clock


def slots(clock: Clock, per_minute: int, *, seconds: float = 3 * MINUTE) -> Iterator[float]:
    """When a caller that is never late may go."""
    limiter, end = RateLimiter(per_minute), clock.now + seconds
    while clock.now < end:
        limiter.wait(clock)
        yield clock.now


def max_in_a_minute(arrivals: list[float]) -> int:
    return max(sum(start <= other < start + MINUTE for other in arrivals) for start in arrivals)


@pytest.mark.parametrize("per_minute", [1, 10, 600, 700])
def test_no_rolling_minute_has_more_although_requests_arrive_late(
    clock: Clock, per_minute: int
) -> None:
    late = cycle([0.5, 0, 0.2])
    arrivals = [slot + next(late) for slot in slots(clock, per_minute)]
    assert max_in_a_minute(arrivals) <= per_minute


@pytest.mark.parametrize("per_minute", [10, 600, 700])
def test_nearly_all_of_the_limit_is_used(clock: Clock, per_minute: int) -> None:
    arrivals = list(slots(clock, per_minute))
    assert len(arrivals) >= 0.95 * 3 * per_minute


def test_slots_are_spread_evenly(clock: Clock) -> None:
    gaps = [after - before for before, after in pairwise(slots(clock, 600))]
    assert gaps == pytest.approx([0.101] * len(gaps))


def test_the_first_slot_is_at_once(clock: Clock) -> None:
    assert next(slots(clock, 1)) == 1000


def test_time_lost_is_not_caught_up_with(clock: Clock) -> None:
    limiter = RateLimiter(60)
    limiter.wait(clock)
    clock.now += 10
    limiter.wait(clock)
    before = clock.now
    limiter.wait(clock)
    assert clock.now - before >= 1


def test_those_who_wait_side_by_side_have_a_slot_each(clock: Clock) -> None:
    limiter = RateLimiter(60)
    waiting = [limiter.slot() for _ in range(3)]
    assert [next(naps, "go") for naps in waiting] == ["go", 0.2, 0.2]
    clock.now += 1.02
    assert [next(naps, "go") for naps in waiting[1:]] == ["go", 0.2]


def test_the_settings_name_the_limit(clock: Clock, settings: Any) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 6
    limiter = RateLimiter(None)
    limiter.wait(clock)
    limiter.wait(clock)
    assert clock.now == pytest.approx(1010.1)


def test_0_is_no_limit(clock: Clock) -> None:
    limiter = RateLimiter(0)
    assert all(limiter.wait(clock) for _ in range(100))
    assert clock.now == 1000


def test_a_limit_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^per_minute must be at least 0; 0 is no limit\.$"):
        RateLimiter(-1)


@pytest.mark.parametrize(("per_minute", "seconds"), [(0, 20), (60, 21.01)])
def test_the_longest_pause_holds_up_whoever_comes_next_and_the_limit_is_kept(
    clock: Clock, per_minute: int, seconds: float
) -> None:
    limiter = RateLimiter(per_minute)
    limiter.pause(20)
    limiter.pause(10)
    limiter.wait(clock)
    assert clock.now == pytest.approx(1020)
    limiter.wait(clock)
    assert clock.now == pytest.approx(1000 + seconds)


def test_a_pause_holds_up_those_who_wait_already(clock: Clock) -> None:
    limiter = RateLimiter(60)
    limiter.wait(clock)
    clock.meanwhile = lambda: limiter.pause(20)
    limiter.wait(clock)
    assert clock.now == pytest.approx(1020)


def test_a_stopped_run_waits_no_longer(clock: Clock) -> None:
    limiter = RateLimiter(1)
    assert limiter.wait(clock)
    clock.meanwhile = clock.set
    assert not limiter.wait(clock)
    assert clock.now < 1001
    assert not RateLimiter(0).wait(clock)
