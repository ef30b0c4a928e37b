"""Profiles: what a tenant sees of its people, and what they change about themselves.

Refused: whatever has another way, such as role and address, which would otherwise be had for the asking.
"""

from sqlalchemy import func, or_, update

from services.auth import memberships
from services.auth.users import (
    MEMBERS,
    PERSON,
    PERSONAL,
    SECRET,
    FieldProtected,
    UserManagedElsewhere,
    UserNotFound,
    table,
    wire,
)
from services.auth.words import ROLES
from services.kit import calls, canonical, faults, updates
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import user_pb2, user_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

UPDATABLE = ("display_name", "settings")
LARGEST_SETTINGS = 16 * 1024
"""Bytes as JSON."""
PROTECTED = {
    "email": "AuthService.ChangeEmail",
    "role": "MemberService.UpdateMember",
    "verified": "AuthService.VerifyEmail",
    "active": "UserService.DeactivateUser",
    "deactivate_time": "UserService.DeactivateUser",
    "second_factor": "FactorService",
    "home_tenant_id": "MemberService.RemoveMember of the home tenant",
    "tenant_id": "AuthService.SwitchTenant",
}
"""What UpdateUser does not change, and what does."""

_get = Statement(MEMBERS.where(table.c.id == param("user_id")))
_hold = Statement(MEMBERS.where(table.c.id == param("user_id")).with_for_update(key_share=True, of=table))
_update = Change(
    update(table)
    .where(table.c.id == param("user_id"))
    .values(**params("display_name settings"), revision=table.c.revision + 1, update_time=func.now())
    .returning(*PERSON),
    kind="user",
    secret=SECRET,
    personal=PERSONAL,
)


async def get(tx: Transaction, request: pb.GetUserRequest) -> user_pb2.User:
    """Give the caller, or to an admin anybody of the tenant."""
    user_id = _addressed(request.user_id, "users.get", "reads")
    row = await member(tx, user_id)
    return wire(row, row["role"], own=user_id == calls.caller().id)


async def member(tx: Transaction, user_id: str) -> Row:
    """Give somebody of the transaction's tenant, with their role in it."""
    row = await tx.one(_get, user_id=user_id)
    if row is None:
        raise UserNotFound(user_id)
    return row


async def expect(tx: Transaction, user_id: str) -> None:
    """Refuse whom the transaction's tenant does not look after, before anything else is said of them."""
    _check(tx, await tx.one(_get, user_id=user_id), user_id)


async def hold(tx: Transaction, user_id: str) -> Row:
    """Give somebody of the transaction's tenant for a change: the caller, or whoever its admins look after."""
    return _check(tx, await tx.one(_hold, user_id=user_id), user_id)


def _check(tx: Transaction, row: Row | None, user_id: str) -> Row:
    if row is None:
        raise UserNotFound(user_id)
    if user_id != calls.caller().id and str(row["default_tenant_id"]) != tx.tenant_id:
        raise UserManagedElsewhere(user_id)
    return row


async def page(tx: Transaction, request: pb.ListUsersRequest, page: Page) -> pb.ListUsersResponse:
    """Give one page of the tenant's people, newest first."""
    query = MEMBERS.order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    if request.query:
        wanted = func.lower(request.query)
        query = query.where(
            or_(*(func.strpos(func.lower(text), wanted) > 0 for text in (table.c.display_name, table.c.email)))
        )
    if request.role:
        query = query.where(memberships.table.c.role == ROLES.word(request.role))
    if request.HasField("active"):
        query = query.where(table.c.disable_time.is_(None) == request.active)
    if request.HasField("verified"):
        query = query.where(table.c.verified == request.verified)
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    own = calls.caller().id
    people = [wire(row, row["role"], own=str(row["id"]) == own) for row in rows]
    return pb.ListUsersResponse(users=people, next_page_token=token)


async def change(tx: Transaction, request: pb.UpdateUserRequest) -> pb.UpdateUserResponse:
    """Change what the mask names of the caller, or the name of somebody whom the caller looks after."""
    given, caller = request.user, calls.caller()
    user_id = _addressed(given.id and updates.identifier("user.id", given.id), "users.update", "changes")
    own = user_id == caller.id
    paths = set(request.update_mask.paths) or {field.name for field, _ in given.ListFields()} & set(UPDATABLE)
    for path in sorted(paths & PROTECTED.keys()):
        raise FieldProtected(path, PROTECTED[path])
    if not own and "settings" in paths:
        raise FieldProtected("settings", "UpdateUser by the person")
    row = await hold(tx, user_id)
    updates.check_etag(given.etag, row["revision"])
    before = wire(row, row["role"], own=True)
    merged = updates.merge(before, given, request.update_mask, UPDATABLE if own else UPDATABLE[:1])
    settings = canonical.document("user.settings", merged.settings, LARGEST_SETTINGS)
    names = [name for name in UPDATABLE if getattr(before, name) != getattr(merged, name)]
    changed = await _update.only(
        tx, {"changed": names}, user_id=row["id"], display_name=merged.display_name, settings=settings
    )
    return pb.UpdateUserResponse(user=wire(changed, row["role"], own=own))


def _addressed(user_id: str, permission: str, verb: str) -> str:
    """Give whom the request is about: the caller, or anybody when it is an admin who asks."""
    caller = calls.caller()
    if user_id in ("", caller.id):
        return caller.id
    if caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted(f"only an admin {verb} other people", permission=permission)
    return user_id
