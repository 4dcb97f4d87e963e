"""What the lists hold: made up, the same each time, and a little more than the largest page."""

from .lists import LISTS, Item
from .people import Person, people_of, person_of

SCHEDULES = LISTS["schedules"].largest_page + 3
LEVELS = LISTS["on-calls"].largest_page // SCHEDULES + 1
STATES = ("PENDING", "ACCEPTED", "RESOLVED")
#: ilert writes its times with any of these.
DECIMALS = ("", ".123", ".123456")


def items_of(tenant: str, name: str) -> list[Item]:
    """Of any list but the alert sources, which a client can change."""
    if name == "users":
        return [person.profile() for person in _people(tenant)]
    if name == "on-calls":
        return _on_calls(tenant)
    if name == "schedules":
        return [_schedule(n) | {"currentShift": _shift(tenant, n)} for n in range(SCHEDULES)]
    if name == "alerts":
        return [_alert(number, id) for number, id in enumerate(_ids(name))]
    title = name.rpartition("/")[2].replace("-", " ").capitalize()
    return [{"id": id, "name": f"{title} {id}", "createdAt": _time(id)} for id in _ids(name)]


def _ids(name: str) -> range:
    first = 1000 * (len(LISTS) + list(LISTS).index(name)) + 1
    return range(first, first + LISTS[name].largest_page + 3)


def _people(tenant: str) -> list[Person]:
    """Those who can log in first."""
    return people_of(tenant) + [person_of(tenant, f"user-{id}") for id in _ids("users")]


def _alert(number: int, id: int) -> Item:
    source = {"id": 1001, "name": "Website checks"}
    status = STATES[number % len(STATES)]
    summary = f"Check {id} fails"
    return {"id": id, "summary": summary, "status": status, "alertSource": source}


def _schedule(number: int) -> Item:
    return {"id": 3001 + number, "name": f"Rotation {number + 1}", "timezone": "Europe/Berlin"}


def _shift(tenant: str, number: int) -> Item:
    people = people_of(tenant) or _people(tenant)
    person = people[number % len(people)]
    user = {"id": person.id, "username": person.username}
    return {"user": user, "start": "2026-01-01T00:00:00Z", "end": "2026-12-31T00:00:00Z"}


def _on_calls(tenant: str) -> list[Item]:
    shifts = [_shift(tenant, n) | {"schedule": _schedule(n)} for n in range(SCHEDULES)]
    return [
        shift | {"escalationLevel": level} for level in range(1, LEVELS + 1) for shift in shifts
    ]


def _time(number: int) -> str:
    return f"2026-01-01T00:{number % 60:02}:00{DECIMALS[number % len(DECIMALS)]}Z"
