"""The guide's account of an organisation: its code makes up an app, on a site of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support import docs

MODELS, VIEWS, HOOK, SETTING, TASKS, HANDOVER = docs.blocks("python", "docs/guides/organisation")
URLS = """
from django.urls import path
from tests.support import guarded_site
from shop.views import give_account
urlpatterns = [*guarded_site.urlpatterns, path("give/<int:pk>/", give_account)]
"""
SETTINGS = f"from tests.support.organisation_settings import *\n{SETTING}"
PROGRAM = [sys.executable, "-W", "error", "-m", "tests.support.programs.organisation_site"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("organisation")
    (folder / "shop").mkdir()
    code = {"__init__": "", "models": MODELS, "views": VIEWS, "ilert": HOOK, "tasks": TASKS}
    for name, lines in (code | {"urls": URLS, "settings": SETTINGS}).items():
        (folder / "shop" / f"{name}.py").write_text(lines)
    (folder / "handover").write_text(HANDOVER)
    paths = [folder, docs.ROOT, docs.ROOT / "example_project"]
    environment = {
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "HANDOVER": str(folder / "handover"),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    result = subprocess.run(
        PROGRAM, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert result.stderr == ""
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


@pytest.mark.parametrize(
    ("person", "view", "can_disconnect"),
    [
        ("owner", "it works with grace @ acme", True),
        ("member", "it works with grace @ acme", False),
        ("admin", "it works with grace @ acme", True),
        ("stranger", "/ilert/connect/", False),
    ],
)
def test_members_use_it_and_the_owner_and_administrators_manage_it(
    told: dict[str, Any], person: str, view: str, can_disconnect: bool
) -> None:
    assert told["seen by"][person] == [view, can_disconnect]


def test_a_task_works_with_it(told: dict[str, Any]) -> None:
    assert told["sources"] == [{"id": 1}]


def test_it_outlives_its_owner_with_a_successor(told: dict[str, Any]) -> None:
    assert told["afterwards"] == ["it works with grace @ acme", True]
