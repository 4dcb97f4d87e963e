from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_APP_ID = 250


@dataclass(frozen=True)
class Client:
    id: str
    secret: str = field(repr=False)
    redirect_uris: Sequence[str]
    app_id: int = FIRST_APP_ID + 1


@dataclass
class Options:
    """Lifetimes and latency are in seconds; may be changed while the stand-in runs.

    `url_prefix` is "" or like "/path". `requests_per_minute` are those of an address, and
    `requests_per_token` those by an access token; 0 is no limit.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    url_prefix: str = ""
    client_id: str = "standin-client"
    client_secret: str = field(default="standin-secret", repr=False)
    redirect_uris: Sequence[str] = ("http://127.0.0.1:8000/ilert/callback/",)
    more_clients: Sequence[Client] = ()
    client_error: str = "invalid_grant"
    access_token_lifetime: int = 3600
    refresh_token_lifetime: int | None = 31_536_000
    code_lifetime: int = 120
    rotate: bool = False
    detect_reuse: bool = False
    revoke_ends_all: bool = False
    requests_per_minute: int = 700
    requests_per_token: int = 0
    retry_after: int | None = None
    latency: float = 0.0
    alert_sources: int = 2

    def client(self, client_id: str) -> Client | None:
        first = Client(self.client_id, self.client_secret, self.redirect_uris, FIRST_APP_ID)
        clients = {client.id: client for client in (*self.more_clients, first)}
        return clients.get(client_id)
