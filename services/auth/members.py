"""Members: a person in the caller's tenant, with role, standing and identities elsewhere. `departures` ends that."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, Select, Uuid, func, literal, select, tuple_, update

from services.auth import events, identities, memberships, users
from services.auth.sources import Source
from services.auth.words import ROLES
from services.kit import calls, canonical, faults, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import member_pb2, member_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

UPDATABLE = ("role", "tier", "rank", "activity_score", "conviction_score", "metadata")
LARGEST_METADATA = 16 * 1024
"""Bytes as JSON."""

_table = memberships.table
_query = (
    select(
        *_table.c,
        users.table.c.display_name,
        (users.table.c.verified & users.ACTIVE).label("active"),
        identities.of_member().label("identities"),
    )
    .join(users.table, users.table.c.id == _table.c.user_id)
    .where(_table.c.remove_time.is_(None), users.table.c.delete_time.is_(None))
)
_get = Statement(_query.where(_table.c.user_id == param("user_id")))
_lock = Statement(_query.where(_table.c.user_id == param("user_id")).with_for_update(of=_table, key_share=True))
_update = Statement(
    update(_table)
    .where(_table.c.user_id == param("person_id"))
    .values(
        **params("role tier rank activity_score conviction_score metadata"),
        revision=_table.c.revision + 1,
        update_time=func.now(),
    )
)
_touch = Statement(
    update(_table)
    .where(_table.c.user_id == param("person_id"))
    .values(revision=_table.c.revision + 1, update_time=func.now())
)


class MemberNotFound(faults.NotFound):
    """No such member in the caller's tenant."""

    def __init__(self, **facts: Any) -> None:
        super().__init__("there is no such member", **facts)


async def get(tx: Transaction, request: pb.GetMemberRequest) -> pb.GetMemberResponse:
    """Give a member; to somebody below viewer all others look like none."""
    caller = calls.caller()
    user_id = request.user_id or caller.id
    if caller.kind == "user" and caller.role < Role.ROLE_VIEWER and user_id != caller.id:
        raise MemberNotFound(user_id=user_id)
    return pb.GetMemberResponse(member=_wire(await _row(tx, _get, user_id)))


async def find(tx: Transaction, request: pb.FindMemberRequest) -> pb.FindMemberResponse:
    """Give the member who is this elsewhere."""
    user_id = await identities.holder(tx, request.identity)
    row = await tx.one(_get, user_id=user_id) if user_id is not None else None
    if row is None:
        raise MemberNotFound
    return pb.FindMemberResponse(member=_wire(row))


async def page(tx: Transaction, request: pb.ListMembersRequest, page: Page) -> pb.ListMembersResponse:
    """Give one page of members, newest first or best first."""
    query = _query
    if request.role:
        query = query.where(_table.c.role == ROLES.word(request.role))
    if request.least_tier:
        query = query.where(_table.c.tier >= request.least_tier)
    if request.query:
        query = query.where(users.table.c.display_name.icontains(request.query, autoescape=True))
    by_rank = request.order == pb.MEMBER_ORDER_RANK
    column = _table.c.place if by_rank else _table.c.create_time
    query = _best_first(query, page) if by_rank else _newest_first(query, page)
    rows, token = page.end(await tx.all(query.limit(page.limit)), key=lambda row: (row[column.name], row["user_id"]))
    return pb.ListMembersResponse(members=[_wire(row) for row in rows], next_page_token=token)


async def change(tx: Transaction, request: pb.UpdateMemberRequest, source: Source) -> pb.UpdateMemberResponse:
    """Change what the mask names."""
    given = request.member
    user_id = updates.identifier("member.user_id", given.user_id)
    if _names_role(request):
        await memberships.hold(tx, user_id, tx.tenant_id)
        await users.lock(tx, user_id)  # before the membership, as everybody does who needs both
    row = await lock(tx, user_id)
    updates.check_etag(given.etag, row["revision"])
    merged = updates.merge(_wire(row), given, request.update_mask, UPDATABLE)
    await _change_role(tx, row, merged.role, source)
    await tx.run(
        _update,
        person_id=user_id,
        role=ROLES.word(merged.role),
        tier=merged.tier,
        rank=merged.rank or None,
        activity_score=Decimal(merged.activity_score or 0),
        conviction_score=Decimal(merged.conviction_score or 0),
        metadata=canonical.document("member.metadata", merged.metadata, LARGEST_METADATA),
    )
    member = _wire(await _row(tx, _get, user_id))
    await outbox.record(tx, f"member:{user_id}", member)
    return pb.UpdateMemberResponse(member=member)


async def link(tx: Transaction, request: pb.LinkIdentityRequest) -> pb.LinkIdentityResponse:
    """Say who a member is elsewhere."""
    await lock(tx, request.user_id)
    await identities.link(tx, request.user_id, request.identity)
    return pb.LinkIdentityResponse(member=await _touched(tx, request.user_id))


async def unlink(tx: Transaction, request: pb.UnlinkIdentityRequest) -> pb.UnlinkIdentityResponse:
    """Take that back."""
    await lock(tx, request.user_id)
    await identities.unlink(tx, request.user_id, request.identity)
    return pb.UnlinkIdentityResponse(member=await _touched(tx, request.user_id))


async def lock(tx: Transaction, user_id: str) -> Row:
    """Give the row of a member, who stays one until the transaction ends."""
    return await _row(tx, _lock, user_id)


async def _row(tx: Transaction, statement: Statement, user_id: str) -> Row:
    row = await tx.one(statement, user_id=user_id)
    if row is None:
        raise MemberNotFound(user_id=user_id)
    return row


async def _change_role(tx: Transaction, row: Row, role: "Role.ValueType", source: Source) -> None:
    """What a new role takes with it: never the last admin, and a lesser one ends the tokens that say more."""
    before = ROLES.number(row["role"])
    if role == before:
        return
    if calls.caller().kind != "user":
        raise users.FieldProtected("role", "MemberService.UpdateMember as an admin")
    if before == Role.ROLE_ADMIN:
        await memberships.spare(tx, row["user_id"], tx.tenant_id)
    if role < before:
        await users.end_tokens(tx, row["user_id"])
    resource = f"member:{row['user_id']}"
    await events.write(tx, "auth.member.update", resource, source=source, user_id=calls.caller().id)


async def _touched(tx: Transaction, user_id: str) -> member_pb2.Member:
    await tx.run(_touch, person_id=user_id)
    member = _wire(await _row(tx, _get, user_id))
    await outbox.record(tx, f"member:{user_id}", member)
    return member


def _names_role(request: pb.UpdateMemberRequest) -> bool:
    paths = set(request.update_mask.paths)
    return bool(paths & {"role", "*"}) if paths else bool(request.member.role)


def _newest_first(query: Select[Any], page: Page) -> Select[Any]:
    query = query.order_by(_table.c.create_time.desc(), _table.c.user_id.desc())
    if page.after is None:
        return query
    moment, user_id = datetime.fromisoformat(page.after[0]), page.after[1]
    last = tuple_(literal(moment, DateTime(timezone=True)), literal(user_id, Uuid()))
    return query.where(tuple_(_table.c.create_time, _table.c.user_id) < last)


def _best_first(query: Select[Any], page: Page) -> Select[Any]:
    query = query.order_by(_table.c.place, _table.c.user_id)
    if page.after is None:
        return query
    place, user_id = page.after
    last = tuple_(literal(place, BigInteger()), literal(user_id, Uuid()))
    return query.where(tuple_(_table.c.place, _table.c.user_id) > last)


def _wire(row: Row) -> member_pb2.Member:
    member = member_pb2.Member(
        user_id=str(row["user_id"]),
        display_name=row["display_name"],
        role=ROLES.number(row["role"]),
        tier=row["tier"],
        rank=row["rank"] or 0,
        activity_score=_decimal(row["activity_score"]),
        conviction_score=_decimal(row["conviction_score"]),
        identities=identities.wire(row["identities"]),
        active=row["active"],
        join_time=row["create_time"],
        last_seen_time=row["last_seen_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
    member.metadata.update(row["metadata"])
    return member


def _decimal(number: Decimal) -> str:
    """Write a stored number without zeros that say nothing."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
