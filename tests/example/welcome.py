"""What the example says once it can be visited."""

from __future__ import annotations

import subprocess


def welcome_of(process: subprocess.Popen[str]) -> str:
    """Ends in any case: the example bounds its own waits."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == "Ctrl-C ends it.\n":
            break
    return said
