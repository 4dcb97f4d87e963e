from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ilert_standin import StandIn

ROOT = Path(__file__).parents[2]

#: Each way, and whether the account that was read from the replica is told the new token.
WAYS = {
    "get_access_token": True,
    "get_access_token in a transaction": True,
    "refresh": True,
    "refresh by force": True,
    "refresh_many": False,
    "command": False,
    "command for one": False,
}


@pytest.fixture(scope="module")
def site(
    running_standin: tuple[StandIn, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a process of a site with two databases did, and the tokens it sent."""
    standin, url = running_standin
    standin.reset()
    known = str(standin.issue_tokens("acme", "grace")["refresh_token"])
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.support.replica_settings",
        "REPLICA_FOLDER": str(tmp_path_factory.mktemp("databases")),
        "REPLICA_ILERT": url,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.support.programs.replica_site", known]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    sent = [request.form["refresh_token"] == known for request in standin.token_requests]
    return {"known tokens sent": sent, **json.loads(done.stdout)}


def test_a_refresh_never_reads_the_replica(site: dict[str, Any]) -> None:
    found = {way: [*said.values()] for way, said in site["due"].items()}
    assert found == {way: [[], True, is_told] for way, is_told in WAYS.items()}


def test_no_token_of_the_replica_is_sent_to_ilert(site: dict[str, Any]) -> None:
    assert site["known tokens sent"] == [True] * len(WAYS)


def test_what_was_refreshed_meanwhile_is_used_though_the_replica_has_not_heard_of_it(
    site: dict[str, Any],
) -> None:
    assert site["refreshed meanwhile"] == {
        "queries to the replica": [],
        "is refreshed": False,
        "is told": True,
    }
