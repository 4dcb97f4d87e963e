"""Installs the oldest releases that setup.cfg allows."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path


def floors() -> dict[str, str]:
    """By package, those of the extras among them."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    required = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return dict(re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join(required), re.MULTILINE))


if __name__ == "__main__":
    pins = [f"{name}=={version}" for name, version in floors().items()]
    subprocess.run([sys.executable, "-m", "pip", "install", *pins], check=True)
