import re

RESOURCES = {
    "profile": "your profile",
    "policy": "Escalation policies",
    "schedule": "On-call schedules",
    "source": "Alert sources",
    "support_hour": "Support hours",
    "monitor": "Uptime monitors",
    "action": "Alert actions",
    "connector": "Connectors",
    "maintenance": "Maintenance windows",
    "report": "Reports",
    "template": "Incident templates",
    "service": "Services",
    "status_page": "Status pages",
    "team": "Teams",
    "user": "Users",
    "alert": "Alerts",
    "incident": "Incidents",
    "metric": "Metrics",
    "metric_source": "Metric data sources",
    "wildcard": "all resources",
}
VERBS = {"r": "See", "w": "See, Create, Edit", "d": "See, Create, Edit, Delete"}
LEVELS = "rwd"


def is_well_formed(scope: str) -> bool:
    """One space between names. Names unknown here pass: ilert adds some without notice."""
    return all(re.fullmatch(r"[a-z][a-z_]*(:[rwd])?", name) for name in scope.split(" "))


def sentence(name: str) -> str:
    if name == "offline_access":
        return "Stay connected while you are away"
    resource, _, level = name.partition(":")
    words = RESOURCES.get(resource, resource.replace("_", " ").capitalize())
    return f"{VERBS[level or 'r']} {words} in your name"


def sentences(scope: str) -> list[str]:
    return [sentence(name) for name in scope.split(" ")]


def allows(granted: str, needed: str) -> bool:
    resource, _, level = needed.partition(":")
    held = (name.partition(":") for name in granted.split(" "))
    return any(
        LEVELS.index(held_level or "r") >= LEVELS.index(level or "r")
        for name, _, held_level in held
        if name in (resource, "wildcard")
    )
