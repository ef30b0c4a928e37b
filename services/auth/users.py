"""People: the row, its wire form, its queries. A person is one in the whole installation.

The table has no tenant. Every query that serves a call joins memberships, which row-level security limits.
"""

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import insert

from services.auth import memberships, roles
from services.auth.addresses import Address
from services.kit import calls, faults, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from triptych.auth.v1 import user_pb2, user_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

table = Table(
    "users",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("password_hash", Text),
    Column("verified", Boolean, nullable=False),
    Column("default_tenant_id", Uuid, nullable=False),
    Column("last_login_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("disable_time", DateTime(timezone=True)),
    Column("delete_time", DateTime(timezone=True)),
)
ACTIVE = table.c.disable_time.is_(None) & table.c.delete_time.is_(None)
_insert = Statement(
    insert(table)
    .values(**params("email email_key display_name password_hash default_tenant_id"), verified=False)
    .on_conflict_do_nothing(index_elements=["email_key"])
    .returning(table.c.id)
)
_find = Statement(
    select(
        table.c.id,
        table.c.email,
        table.c.password_hash,
        table.c.default_tenant_id,
        (table.c.verified & ACTIVE).label("open"),
    ).where(table.c.email_key == param("email_key"))
)
_verify = Statement(
    update(table)
    .where(table.c.id == param("user_id"), table.c.email_key == param("key"), table.c.delete_time.is_(None))
    .values(verified=True, revision=table.c.revision + 1, update_time=func.now())
    .returning(table.c.id)
)
_enter = Statement(
    update(table)
    .where(table.c.id == param("user_id"), table.c.verified, ACTIVE)
    .values(last_login_time=func.now(), password_hash=func.coalesce(param("new_hash", Text()), table.c.password_hash))
    .returning(*table.c)
)
_members = (
    select(*table.c, memberships.table.c.role)
    .join(memberships.table, memberships.table.c.user_id == table.c.id)
    .where(memberships.table.c.remove_time.is_(None), table.c.delete_time.is_(None))
)
_get = Statement(_members.where(table.c.id == param("user_id")))
_admin = Statement(_members.where(memberships.table.c.role == "admin", table.c.verified, ACTIVE).limit(1))


class UserNotFound(faults.NotFound):
    """No such person in the caller's tenant."""

    def __init__(self, user_id: str) -> None:
        super().__init__("there is no such person", user_id=user_id)


async def create(tx: Transaction, address: Address, *, display_name: str, password_hash: str) -> str | None:
    """Store a person whose first tenant is the transaction's, and give the id; None when the address is known."""
    row = await tx.one(
        _insert,
        email=address.text,
        email_key=address.key,
        display_name=display_name,
        password_hash=password_hash,
        default_tenant_id=tx.tenant_id,
    )
    return str(row["id"]) if row is not None else None


async def find(tx: Transaction, key: str) -> Row | None:
    """Give what a login needs of the person with this address, in whatever tenant."""
    return await tx.one(_find, email_key=key)


async def verify(tx: Transaction, user_id: object, key: str) -> bool:
    """Note that the person proved the address; False when it is no longer theirs."""
    return await tx.one(_verify, user_id=user_id, key=key) is not None


async def enter(tx: Transaction, user_id: object, *, new_hash: str | None) -> Row | None:
    """Note a login and give the person; None when they may not log in any more."""
    return await tx.one(_enter, user_id=user_id, new_hash=new_hash)


async def has_admin(tx: Transaction) -> bool:
    """Say whether the transaction's tenant has an admin who can log in: whose address is proved, and not disabled."""
    return await tx.one(_admin) is not None


async def get(tx: Transaction, request: pb.GetUserRequest) -> user_pb2.User:
    """Give the caller, or to an admin anybody of the tenant."""
    caller = calls.caller()
    user_id = request.user_id or caller.id
    if user_id != caller.id and caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted("only an admin reads other people", permission="users.get")
    row = await tx.one(_get, user_id=user_id)
    if row is None:
        raise UserNotFound(user_id)
    return wire(row, row["role"])


async def page(tx: Transaction, page: Page) -> pb.ListUsersResponse:
    """Give one page of the tenant's people, newest first."""
    query = _members.order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListUsersResponse(users=[wire(row, row["role"]) for row in rows], next_page_token=token)


def wire(row: Row, role: str) -> user_pb2.User:
    """Give a person as a tenant sees them."""
    return user_pb2.User(
        id=str(row["id"]),
        email=row["email"],
        display_name=row["display_name"],
        role=roles.wire(role),
        verified=row["verified"],
        active=row["disable_time"] is None and row["delete_time"] is None,
        last_login_time=row["last_login_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
