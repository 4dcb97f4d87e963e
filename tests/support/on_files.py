"""Runs a program on all files of a kind, which ``tox.ini`` can't list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDERS = ["django_ilert_oauth", "example_project", "tests"]


def main(pattern: str, *command: str) -> int:
    files = sorted(path for folder in FOLDERS for path in Path(folder).rglob(pattern))
    return subprocess.run([*command, *files]).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
