from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Options:
    """Lifetimes and latency are in seconds; may be changed while the stand-in runs."""

    host: str = "127.0.0.1"
    port: int = 8001
    client_id: str = "standin-client"
    client_secret: str = field(default="standin-secret", repr=False)
    redirect_uris: Sequence[str] = ("http://127.0.0.1:8000/ilert/callback/",)
    access_token_lifetime: int = 3600
    refresh_token_lifetime: int | None = 31_536_000
    code_lifetime: int = 120
    rotate: bool = False
    requests_per_minute: int = 700
    retry_after: int | None = None
    latency: float = 0.0
