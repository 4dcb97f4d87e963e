from collections import Counter


class RateLimit:
    """Counts requests per address in fixed windows of one minute."""

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[str] = Counter()

    def is_exceeded(self, address: str, now: float, limit: int) -> bool:
        window = int(now // 60)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[address] += 1
        return 0 < limit < self._counts[address]
