"""JWTs shaped as ilert's are. The stand-in looks its tokens up and never reads their claims."""

import secrets
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from .people import Person


@cache
def _access_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def _refresh_key() -> bytes:
    return secrets.token_bytes(32)


def access_token(app_id: int, person: Person, scope: str, expires_at: float) -> str:
    claims = {
        "il_n": person.tenant,
        "il_a": app_id,
        "il_s": scope,
        "iss": "ilert",
        "il_u": person.username,
        "il_t": "ACCESS",
        "il_v": 1,
        "exp": int(expires_at),
        # Not in ilert's tokens: distinguishes two of the same second.
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(claims, _access_key(), algorithm="RS256")


def refresh_token(expires_at: float | None) -> str:
    claims: dict[str, object] = {"iss": "ilert", "il_t": "OAUTH", "il_v": 1}
    if expires_at is not None:
        claims["exp"] = int(expires_at)
    claims["il_k"] = secrets.token_hex(16)
    return jwt.encode(claims, _refresh_key(), algorithm="HS256")
