"""What ilert's REST API asks of a request: facts of its documentation and OpenAPI description."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import QueryDict

from django_ilert_oauth.oauth import client

#: The scope for what is below ``/api/``.
RESOURCES = {
    "alert-actions": "action",
    "alert-sources": "source",
    "alerts": "alert",
    "connectors": "connector",
    "escalation-policies": "policy",
    "incident-templates": "template",
    "incidents": "incident",
    "maintenance-windows": "maintenance",
    "metric-data-sources": "metric_source",
    "metrics": "metric",
    "on-calls": "schedule",
    "reports": "report",
    "schedules": "schedule",
    "services": "service",
    "status-pages": "status_page",
    "support-hours": "support_hour",
    "teams": "team",
    "uptime-monitors": "monitor",
    "users": "user",
}
LEVELS = {"GET": "", "HEAD": "", "DELETE": ":d"}

#: The largest page of lists that do not allow 100.
LARGEST_PAGES = {
    "/api/alert-sources": 50,
    "/api/escalation-policies": 50,
    "/api/heartbeat-monitors": 200,
    "/api/on-calls": 250,
    "/api/schedules": 20,
    "/api/status-pages": 50,
    "/api/support-hours": 50,
}
LARGEST_WITH_INCLUDE = {"/api/incidents": 25, "/api/metrics": 25, "/api/services": 25}


def needed_scope(method: str, path: str) -> str:
    """Empty for what ilert's documentation does not name."""
    if path == client.CURRENT_USER_PATH:
        return "profile"
    _root, _api, name, *_rest = [*path.split("/"), "", ""]
    return f"{RESOURCES[name]}{LEVELS.get(method, ':w')}" if name in RESOURCES else ""


def too_large(path: str, query: QueryDict) -> str:
    """What ilert says of a page that is; empty for others."""
    largest, when = LARGEST_PAGES.get(path, 100), ""
    if "include" in query and path in LARGEST_WITH_INCLUDE:
        largest, when = LARGEST_WITH_INCLUDE[path], ", when using 'include'"
    size = query.get("max-results", "")
    is_too_large = size.isdecimal() and int(size) > largest
    return f"'max-results' must not be above {largest}{when}" if is_too_large else ""


def error_body(status: int, message: str = "", code: str = "", **more: str) -> dict[str, Any]:
    usual = HTTPStatus(status)
    code = code or ("FEATURE_REQUIRED" if status == 402 else usual.name)
    return {"status": status, "message": message or usual.phrase, "code": code, **more}
