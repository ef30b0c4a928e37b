"""People: the row, its wire form, its queries. A person is one in the whole installation.

The table has no tenant. Every query that serves a call joins memberships, which row-level security limits. Address and
password change through their proofs only (verifications, resets, replacements), the account's state through `accounts`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    column,
    exists,
    func,
    or_,
    select,
    table as lightweight,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from services.auth import memberships, revocations
from services.auth.addresses import Address
from services.auth.words import ROLES
from services.kit import faults, updates
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.auth.v1 import user_pb2

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
    Column("settings", JSONB, nullable=False, server_default="{}"),
    Column("token_version", BigInteger, nullable=False, server_default="1"),
    Column("session_epoch", Integer, nullable=False, server_default="1"),
    Column("last_login_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("disable_time", DateTime(timezone=True)),
    Column("disable_reason", Text, nullable=False, server_default=""),
    Column("delete_time", DateTime(timezone=True)),
)
ACTIVE = table.c.disable_time.is_(None) & table.c.delete_time.is_(None)
# Whether there are factors is all that is asked here; each kind has a module of its own.
_totp = lightweight("totp_secrets", column("user_id"), column("confirm_time"))
_passkeys = lightweight("passkeys", column("user_id"))
SECRET = ("password_hash", "token_version", "session_epoch")
PERSONAL = ("email", "email_key", "display_name", "settings")
"""Columns that the audit log never gets, and those that it gets as commitments, which can be erased."""
PERSON = (
    *table.c,
    or_(
        exists().where(_totp.c.user_id == table.c.id, _totp.c.confirm_time.is_not(None)).correlate(table),
        exists().where(_passkeys.c.user_id == table.c.id).correlate(table),
    ).label("second_factor"),
)
"""What `wire` needs, beside the role."""
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
        table.c.session_epoch,
        PERSON[-1],  # second_factor
        (table.c.verified & ACTIVE).label("open"),
    ).where(table.c.email_key == param("email_key"))
)
_lock = Statement(
    select(*PERSON)
    .where(table.c.id == param("user_id"), table.c.delete_time.is_(None))
    .with_for_update(key_share=True, of=table)
)
_verify = Statement(
    update(table)
    .where(table.c.id == param("user_id"), table.c.email_key == param("key"), table.c.delete_time.is_(None))
    .values(verified=True, revision=table.c.revision + 1, update_time=func.now())
    .returning(table.c.id)
)
_readdress = Statement(
    update(table)
    .where(table.c.id == param("user_id"))
    .values(
        email=param("new_email"),
        email_key=param("new_key"),
        verified=True,
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
)
_move = Statement(update(table).where(table.c.id == param("user_id")).values(default_tenant_id=param("tenant_id")))
_enter = Statement(
    update(table)
    .where(table.c.id == param("user_id"), table.c.session_epoch == param("epoch"), table.c.verified, ACTIVE)
    .values(last_login_time=func.now(), password_hash=func.coalesce(param("new_hash", Text()), table.c.password_hash))
    .returning(*PERSON)
)
_end_tokens = Statement(
    update(table)
    .where(table.c.id == param("user_id"))
    .values(token_version=table.c.token_version + 1)
    .returning(table.c.token_version)
)
_rehash = Statement(
    update(table)
    .where(table.c.id == param("user_id"), table.c.session_epoch == param("epoch"), table.c.verified, ACTIVE)
    .values(password_hash=func.coalesce(param("new_hash", Text()), table.c.password_hash))
    .returning(table.c.id)
)
MEMBERS = (
    select(*PERSON, memberships.table.c.role)
    .join(memberships.table, memberships.table.c.user_id == table.c.id)
    .where(memberships.table.c.remove_time.is_(None), table.c.delete_time.is_(None))
)
_admin = Statement(MEMBERS.where(memberships.table.c.role == "admin", table.c.verified, ACTIVE).limit(1))


class UserNotFound(faults.NotFound):
    """No such person in the caller's tenant."""

    def __init__(self, user_id: str) -> None:
        super().__init__("there is no such person", user_id=user_id)


class FieldProtected(faults.PermissionDenied):
    """The field is not changed this way."""

    def __init__(self, path: str, use: str) -> None:
        super().__init__(f"{path} is not changed this way; use {use}", path=path, use=use)


class UserManagedElsewhere(faults.PermissionDenied):
    """The account is looked after by the admins of another tenant."""

    def __init__(self, user_id: object) -> None:
        super().__init__("the admins of the person's home tenant look after the account", user_id=user_id)


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


async def lock(tx: Transaction, user_id: object) -> Row | None:
    """Give a person, whom nobody else changes until the transaction ends; None when there is none any more.

    Lock the person before anything of theirs, so that nobody waits in a circle.
    """
    return await tx.one(_lock, user_id=user_id)


async def readdress(tx: Transaction, user_id: object, address: Address) -> None:
    """Give a person another address, which they proved; that somebody else has it is a constraint's to say."""
    await tx.run(_readdress, user_id=user_id, new_email=address.text, new_key=address.key)


async def end_tokens(tx: Transaction, user_id: object) -> None:
    """End the access tokens of a person, everywhere; their sessions go on, and give tokens that say what is so now."""
    row = await tx.only(_end_tokens, user_id=user_id)
    await revocations.of_subject(tx, user_id, row["token_version"])


async def move(tx: Transaction, user_id: object, tenant_id: object) -> None:
    """Give a person another home tenant: they log in there, and its admins look after the account."""
    await tx.run(_move, user_id=user_id, tenant_id=tenant_id)


async def enter(tx: Transaction, user_id: object, *, epoch: int, new_hash: str | None = None) -> Row | None:
    """Note a login and give the person.

    None when they may not log in any more, or when what they showed was shown before `session_epoch` was raised: a
    password that was replaced between its comparison and now begins no session.
    """
    return await tx.one(_enter, user_id=user_id, epoch=epoch, new_hash=new_hash)


async def rehash(tx: Transaction, user_id: object, *, epoch: int, new_hash: str | None) -> bool:
    """Store a new hash of the same password, if there is one; False where `enter` gives None."""
    return await tx.one(_rehash, user_id=user_id, epoch=epoch, new_hash=new_hash) is not None


async def has_admin(tx: Transaction) -> bool:
    """Say whether the transaction's tenant has an admin who can log in: whose address is proved, and not disabled."""
    return await tx.one(_admin) is not None


def wire(row: Row, role: str, *, own: bool = False) -> user_pb2.User:
    """Give a person as a tenant sees them, or as they see themselves."""
    user = user_pb2.User(
        id=str(row["id"]),
        email=row["email"],
        display_name=row["display_name"],
        role=ROLES.number(role),
        verified=row["verified"],
        active=row["disable_time"] is None and row["delete_time"] is None,
        last_login_time=row["last_login_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
        home_tenant_id=str(row["default_tenant_id"]),
        second_factor=row["second_factor"],
        deactivate_time=row["disable_time"],
    )
    if own:
        user.settings.update(row["settings"])
    return user
