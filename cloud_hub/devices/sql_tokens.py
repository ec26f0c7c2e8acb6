"""Queries on join tokens, within the connection of a transaction that the caller opened.

What must not live here: any rule about when a token may be used.
"""

import sqlalchemy as sa

from cloud_hub.devices.join_token import TOKEN_ID_CHARS, StoredToken
from cloud_hub.devices.sql_store import TOKENS
from shared.ids import DeviceId

LISTED_MAX = 1000


def insert_token(connection: sa.Connection, token: StoredToken) -> None:
    """Keep a new token."""
    connection.execute(
        TOKENS.insert().values(
            token_hash=token.token_hash,
            name=token.name,
            group_names=" ".join(token.groups),
            created_ms=token.created_ms,
            expires_ms=token.expires_ms,
        )
    )


def lock_token(connection: sa.Connection, token_hash: str) -> StoredToken | None:
    """Return a token; nobody else can change it before the transaction ends."""
    query = TOKENS.select().where(TOKENS.c.token_hash == token_hash).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else _token(row)


def lock_token_of_id(connection: sa.Connection, token_id: str) -> StoredToken | None:
    """Return the token that people name so, as `lock_token`."""
    begins_so = sa.func.substr(TOKENS.c.token_hash, 1, TOKEN_ID_CHARS) == token_id
    row = connection.execute(TOKENS.select().where(begins_so).with_for_update()).first()
    return None if row is None else _token(row)


def open_tokens(connection: sa.Connection, *, now_ms: int) -> tuple[StoredToken, ...]:
    """Return the tokens that are good and were not used, the one that ends first, first."""
    query = (
        TOKENS.select()
        .where(TOKENS.c.redeemed_ms.is_(None), TOKENS.c.expires_ms > now_ms)
        .order_by(TOKENS.c.expires_ms, TOKENS.c.token_hash)
        .limit(LISTED_MAX)
    )
    return tuple(_token(row) for row in connection.execute(query))


def expire_token(connection: sa.Connection, token_hash: str, *, now_ms: int) -> None:
    """Let a token's time be over."""
    query = TOKENS.update().where(TOKENS.c.token_hash == token_hash)
    connection.execute(query.values(expires_ms=now_ms))


def redeem_token(
    connection: sa.Connection, token_hash: str, *, device: DeviceId, now_ms: int
) -> None:
    """Note who joined with a token."""
    query = TOKENS.update().where(TOKENS.c.token_hash == token_hash)
    connection.execute(query.values(redeemed_ms=now_ms, device_id=device))


def delete_tokens(connection: sa.Connection, *, expired_before_ms: int) -> None:
    """Forget tokens that expired long ago."""
    connection.execute(TOKENS.delete().where(TOKENS.c.expires_ms < expired_before_ms))


def _token(row: sa.Row[tuple[object, ...]]) -> StoredToken:
    return StoredToken(
        token_hash=row.token_hash,
        name=row.name,
        groups=tuple(row.group_names.split()),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        redeemed_ms=row.redeemed_ms,
        device_id=row.device_id,
    )
