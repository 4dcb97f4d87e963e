from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from demo_processes import ProcessEndedError, Processes


def test_when_one_process_ends_the_other_is_ended(tmp_path: Path) -> None:
    endless = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with (
        pytest.raises(ProcessEndedError, match=r"The second has ended \(exit code 3\)\."),
        Processes(tmp_path) as processes,
    ):
        processes.start("first", [sys.executable, "-c", endless], os.environ)
        while not processes.log_of("first"):
            time.sleep(0.01)
        processes.start("second", [sys.executable, "-c", "raise SystemExit(3)"], os.environ)
        processes.watch()

    with pytest.raises(ProcessLookupError):
        os.kill(int(processes.log_of("first")), 0)
