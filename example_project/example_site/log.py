from __future__ import annotations

import logging
import re


class WithoutQuery(logging.Filter):
    """Django's server logs complete request lines; the callback's holds a code and a state."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(re.sub(r"\?\S*", "", str(part)) for part in record.args)
        return True
