from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True)
class Person:
    """Known by tenant and username together: both tenants have a grace."""

    tenant: str
    username: str
    id: int
    first_name: str
    last_name: str
    role: str = "USER"
    language: str = "en"
    position: str | None = None

    @property
    def account(self) -> str:
        return f"{self.tenant}/{self.username}"

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}"

    def profile(self) -> dict[str, object]:
        profile: dict[str, object] = {
            "id": self.id,
            "username": self.username,
            "firstName": self.first_name,
            "lastName": self.last_name,
            "email": f"{self.username}@{self.tenant}.example",
            "role": self.role,
            "language": self.language,
            "timezone": "Europe/Berlin",
            "region": "DE",
        }
        if self.position is not None:
            profile["position"] = self.position
        return profile


PEOPLE = (
    Person("acme", "grace", 101, "Grace", "Demo", role="ADMIN", position="On-call lead"),
    Person("acme", "ada", 102, "Ada", "Demo", language="de"),
    Person("globex", "linus", 201, "Linus", "Demo", role="RESPONDER"),
    Person("globex", "grace", 202, "Grace", "Sample"),
)
TENANTS = tuple(dict.fromkeys(person.tenant for person in PEOPLE))


def people_of(tenant: str | None) -> list[Person]:
    return [person for person in PEOPLE if tenant in (None, person.tenant)]


def person_of(tenant: str, username: str) -> Person:
    """One of the people above, or one made up: same names, same person."""
    account = f"{tenant}/{username}"
    return find_person(account) or Person(
        tenant, username, 1000 + crc32(account.encode()), username.capitalize(), "Demo"
    )


def find_person(account: str) -> Person | None:
    return next((person for person in PEOPLE if person.account == account), None)
