from collections import Counter


class RateLimit:
    """It counts the requests of an address, or by a token, in fixed windows of one minute."""

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[str] = Counter()

    def is_exceeded(self, key: str, now: float, limit: int) -> bool:
        window = int(now // 60)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[key] += 1
        return 0 < limit < self._counts[key]
