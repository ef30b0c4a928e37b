"""Sessions: one row for each login, with the family of its refresh tokens. What ended stays ended.

A refresh is one statement that finds, checks and rotates, so that neither a second refresh nor an end can come
between. The token before the newest leads to the newest again for a few seconds; any other old one ends the session
(`endings`), because two parties hold it. A session counts only while its epoch is its person's, and while the session
that it follows (`switches`) was not ended.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    and_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.auth import activities, memberships, users
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tokens import Minting, RefreshToken
from services.auth.words import ROLES
from services.kit import calls, faults, outbox
from services.kit.db import Row, Statement, Transaction, param
from services.kit.paging import Page
from triptych.auth.v1 import auth_service_pb2 as pb, session_pb2, session_service_pb2 as session_pb
from triptych.auth.v1.session_pb2 import SessionEnd
from triptych.common.v1.role_pb2 import Role

table = Table(
    "sessions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("refresh_token_hash", LargeBinary, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("device_info", JSONB, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("rotate_time", DateTime(timezone=True), nullable=False),
    Column("last_use_time", DateTime(timezone=True), nullable=False),
    Column("idle_expire_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("revoke_time", DateTime(timezone=True)),
    Column("revoke_reason", Text),
    Column("session_epoch", Integer, nullable=False),
    Column("reauthenticate_time", DateTime(timezone=True)),
    Column("follows", Uuid),
)
ENDS = {
    "logout": SessionEnd.SESSION_END_LOGOUT,
    "reuse": SessionEnd.SESSION_END_REUSE,
    "revoked": SessionEnd.SESSION_END_REVOKED,
    "removed": SessionEnd.SESSION_END_REVOKED,
    "credentials": SessionEnd.SESSION_END_CREDENTIALS,
}
_idle = func.now() + param("idle", Interval())
_counts = (users.table.c.id == table.c.user_id) & users.table.c.verified & users.ACTIVE & (
    users.table.c.session_epoch == table.c.session_epoch
)  # fmt: skip
"""The person may log in, and has not had all sessions ended since this one began."""
_in_time = (table.c.idle_expire_time > func.now()) & (table.c.expire_time > func.now())
_led = or_(table.c.follows.is_(None), func.session_goes_on(table.c.follows))
"""It follows from no other session, or from one that has not been ended."""
LIVE = table.c.revoke_time.is_(None) & _in_time & _counts & _led
"""A session that goes on; in a statement that names people."""

_generation = param("given", Integer())
_family = (table.c.refresh_token_hash == param("digest")) & table.c.revoke_time.is_(None)
_newest = table.c.generation == _generation
_before_newest = table.c.generation == _generation + 1
_recent = table.c.rotate_time > func.now() - param("grace", Interval())
REUSED = and_(_family, or_(table.c.generation > _generation + 1, and_(_before_newest, ~_recent)))
"""The session of a token that was used long ago."""

_follows = param("follows", Uuid())
# One statement reads role and token_version: a role that is lowered meanwhile is not signed under the new version.
_person = (
    select(users.table.c.id, users.table.c.session_epoch, users.table.c.token_version, memberships.table.c.role)
    .where(
        users.table.c.id == param("user_id"),
        memberships.table.c.user_id == users.table.c.id,
        memberships.table.c.tenant_id == param("tenant_id", Uuid()),
        memberships.LIVE,
        users.table.c.session_epoch == func.coalesce(param("epoch", Integer()), users.table.c.session_epoch),
        users.table.c.verified,
        users.ACTIVE,
        or_(_follows.is_(None), func.session_goes_on(_follows)),
    )
    .cte("person")
)
_expire = func.coalesce(param("until", DateTime(timezone=True)), func.now() + param("absolute", Interval()))
_begun = (
    insert(table)
    .from_select(
        [
            "tenant_id", "user_id", "refresh_token_hash", "generation", "device_info", "idle_expire_time",
            "expire_time", "session_epoch", "follows",
        ],
        select(
            param("tenant_id", Uuid()), _person.c.id, param("refresh_token_hash", LargeBinary()), literal(0),
            param("device_info", JSONB()), func.least(_idle, _expire), _expire, _person.c.session_epoch,
            _follows,
        ),
        include_defaults=False,
    )
    .returning(*table.c)
    .cte("begun")
)  # fmt: skip
_insert = Statement(
    select(*_begun.c, _person.c.token_version, _person.c.role)
    .join(_person, _person.c.id == _begun.c.user_id)
    .add_cte(activities.of(_begun, param("kind", Text())), memberships.seen(_begun))
)
_rotated = (
    update(table)
    .where(
        _family,
        or_(_newest, and_(_before_newest, _recent)),
        _in_time,
        _counts,
        _led,
        memberships.table.c.user_id == table.c.user_id,
        memberships.table.c.tenant_id == table.c.tenant_id,
        memberships.LIVE,
    )
    .values(
        generation=_generation + 1,
        rotate_time=case((_newest, func.now()), else_=table.c.rotate_time),
        last_use_time=func.now(),
        idle_expire_time=case((_newest, func.least(_idle, table.c.expire_time)), else_=table.c.idle_expire_time),
    )
    .returning(
        table.c.id,
        table.c.tenant_id,
        table.c.user_id,
        table.c.generation,
        table.c.idle_expire_time,
        (table.c.rotate_time == func.now()).label("first"),
        memberships.table.c.role,
        users.table.c.token_version,
    )
    .cte("rotated")
)
_rotate = Statement(
    select(_rotated).add_cte(
        activities.of(_rotated, case((_rotated.c.first, "refresh"), else_="grace")), memberships.seen(_rotated)
    )
)
_shown = select(
    *table.c,
    (table.c.idle_expire_time <= func.now()).label("idle"),
    (table.c.expire_time <= func.now()).label("expired"),
    _counts.label("counts"),
    _led.label("led"),
).join(users.table, users.table.c.id == table.c.user_id)
_get = Statement(_shown.where(table.c.id == param("id")))
_live = Statement(_shown.where(table.c.id == param("id"), LIVE))


class SessionInvalid(faults.Unauthenticated):
    """The refresh token is unknown, used, expired or revoked; which of them is not said."""

    def __init__(self) -> None:
        super().__init__("the session has ended; log in again")


class SessionNotFound(faults.NotFound):
    """No such session of the caller, or for admins in the tenant."""

    def __init__(self, session_id: str) -> None:
        super().__init__("there is no such session", session_id=session_id)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session follows from, when it is not simply a login."""

    kind: str = "login"
    epoch: int | None = None
    """The person's `session_epoch` when what they showed was read; None: as it is now."""
    until: datetime | None = None
    """When it ends whatever happens; None: as settings say."""
    follows: object = None
    """The session that it ends with; None: it ends with no other."""


LOGIN = Origin()


async def create(
    tx: Transaction,
    user_id: object,
    refresh: RefreshToken,
    settings: AuthSettings,
    device_info: dict[str, str],
    *,
    origin: Origin = LOGIN,
) -> Row:
    """Begin a session in the transaction's tenant; the row has the person's `token_version` and `role` as well.

    Raises SessionInvalid when the person may not log in here any more, their epoch is another one by now, or the
    session that it follows has been ended.
    """
    row = await tx.one(
        _insert,
        tenant_id=tx.tenant_id,
        user_id=user_id,
        refresh_token_hash=refresh.digest,
        device_info=device_info,
        idle=settings.refresh_idle,
        absolute=settings.refresh_absolute,
        epoch=origin.epoch,
        until=origin.until,
        follows=origin.follows,
        kind=origin.kind,
        ip_address=device_info["ip_address"],
        user_agent=device_info["user_agent"],
    )
    if row is None:
        raise SessionInvalid
    return row


async def refresh(
    tx: Transaction, given: RefreshToken, settings: AuthSettings, minting: Minting, source: Source
) -> pb.RefreshResponse | None:
    """Give new tokens for the newest token, or for the one just before it; None when there are none to give."""
    row = await tx.one(
        _rotate,
        digest=given.digest,
        given=given.generation,
        grace=settings.refresh_grace,
        idle=settings.refresh_idle,
        **activities.origin(source),
    )
    if row is None:
        return None
    actor = ("user", str(row["user_id"]))
    await outbox.record(tx, f"session:{row['id']}", {"generation": row["generation"]}, actor=actor)
    return pb.RefreshResponse(tokens=minting.pair(row, ROLES.number(row["role"]), given.successor))


async def current(tx: Transaction) -> Row:
    """Give the caller's own session; one that has ended has no tokens."""
    row = await tx.one(_live, id=calls.caller().session_id)
    if row is None:
        raise faults.TokenInvalid
    return row


async def visible(tx: Transaction, session_id: str) -> Row:
    """Give a session of the caller; to an admin anybody's in the tenant."""
    caller = calls.caller()
    row = await tx.one(_get, id=session_id)
    if row is None or (str(row["user_id"]) != caller.id and caller.role < Role.ROLE_ADMIN):
        raise SessionNotFound(session_id)
    return row


async def whose(tx: Transaction, user_id: str, permission: str) -> str:
    """Give the person that a request names: the caller, or to an admin any member."""
    caller = calls.caller()
    if user_id in ("", caller.id):
        return caller.id
    if caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted("only an admin may name somebody else", permission=permission)
    if await memberships.find(tx, user_id) is None:
        raise users.UserNotFound(user_id)
    return user_id


async def page(tx: Transaction, request: session_pb.ListSessionsRequest, page: Page) -> session_pb.ListSessionsResponse:
    """Give one page of a person's sessions in the tenant, newest first."""
    query = _shown.where(table.c.user_id == await whose(tx, request.user_id, "sessions.list"))
    if request.live_only:
        query = query.where(LIVE)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    found = await tx.all(query.order_by(table.c.id.desc()).limit(page.limit))
    rows, token = page.end(found, key=lambda row: (row["id"],))
    return session_pb.ListSessionsResponse(sessions=[wire(row) for row in rows], next_page_token=token)


def wire(row: Row) -> session_pb2.Session:
    """Give a session without what its tokens are made of."""
    device = row["device_info"]
    return session_pb2.Session(
        id=str(row["id"]),
        user_id=str(row["user_id"]),
        device_name=device.get("name", ""),
        user_agent=device.get("user_agent", ""),
        ip_address=device.get("ip_address", ""),
        current=str(row["id"]) == calls.caller().session_id,
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
        idle_expire_time=row["idle_expire_time"],
        expire_time=row["expire_time"],
        end=_end(row),
        end_time=row["revoke_time"],
    )


def _end(row: Row) -> "SessionEnd.ValueType":
    if row["revoke_reason"] is not None:
        return ENDS[row["revoke_reason"]]
    if not row["counts"]:
        return SessionEnd.SESSION_END_CREDENTIALS
    if not row["led"]:
        return SessionEnd.SESSION_END_REVOKED
    if row["expired"]:
        return SessionEnd.SESSION_END_EXPIRED
    return SessionEnd.SESSION_END_IDLE if row["idle"] else SessionEnd.SESSION_END_UNSPECIFIED
