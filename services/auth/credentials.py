"""Agent credentials: the row, its wire form, its queries and its faults. The secret is shown once and stored as a hash.

A secret is `tra_<tenant>_<256 random bits>_<CRC-32>`: the checksum tells a slip of the pen from an attempt without
asking the database, and lets scanners recognise a secret that leaked.
"""

import hashlib
import re
import secrets
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    Column,
    DateTime,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from services.auth import revocations
from services.kit import calls, clock, faults
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.auth.v1 import agent_credential_pb2 as wire_pb

LONGEST = timedelta(days=90)
OVERLAP = timedelta(hours=24)
"""How long a replaced credential stays good."""
MOST_LIVE = 2
_SECRET = re.compile(r"(tra_([0-9a-f]{32})_[A-Za-z0-9_-]{43})_([0-9a-f]{8})")

table = Table(
    "agent_credentials",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("agent_id", Uuid, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("revoke_time", DateTime(timezone=True)),
    Column("replaced_by", Uuid),
    Column("last_use_time", DateTime(timezone=True)),
    Column("created_by", Uuid, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
shown = [column for column in table.c if column.name != "secret_hash"]
LIVE = (table.c.expire_time > func.now()) & ((table.c.revoke_time.is_(None)) | (table.c.revoke_time > func.now()))
_insert = Statement(
    insert(table)
    .values(**params("tenant_id agent_id display_name prefix secret_hash scopes expire_time created_by"))
    .returning(*shown)
)
_live = Statement(select(func.count().label("live")).where(table.c.agent_id == param("agent_id"), LIVE))
_is_live = Statement(select(table.c.id).where(table.c.id == param("id"), LIVE))
_get = Statement(select(*shown).where(table.c.id == param("id")))
_revoke = Statement(
    update(table).where(table.c.id == param("credential_id"), LIVE).values(revoke_time=func.now()).returning(*shown)
)
_replace = Statement(
    update(table)
    .where(table.c.id == param("credential_id"), LIVE)
    .values(
        revoke_time=func.least(table.c.revoke_time, table.c.expire_time, func.now() + param("overlap", Interval())),
        replaced_by=param("successor"),
    )
    .returning(*shown)
)
_end_all = Statement(
    update(table)
    .where(table.c.agent_id == param("of_agent"), LIVE)
    .values(revoke_time=func.now())
    .returning(table.c.id)
)


class CredentialNotFound(faults.NotFound):
    """No such credential in the caller's tenant."""

    def __init__(self, credential_id: str) -> None:
        super().__init__("there is no such credential", credential_id=credential_id)


class CredentialLimit(faults.FailedPrecondition):
    """The agent has as many live credentials as it may."""

    def __init__(self, agent_id: object) -> None:
        text = f"the agent has {MOST_LIVE} live credentials; revoke one first"
        super().__init__(text, agent_id=agent_id)


class CredentialEnded(faults.FailedPrecondition):
    """The credential was revoked or has expired."""

    def __init__(self, credential_id: object) -> None:
        super().__init__("the credential has ended; create a new one", credential_id=credential_id)


@dataclass(frozen=True, slots=True)
class Secret:
    """What an agent holds."""

    text: str
    tenant_id: str

    @property
    def digest(self) -> bytes:
        """SHA-256; a slow hash adds nothing to 256 random bits."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def prefix(self) -> str:
        """What is shown of it: six of its 43 random characters."""
        return f"tra_{self.text[37:43]}"


def begin(tenant_id: str) -> Secret:
    """Make a secret of 256 random bits."""
    stem = f"tra_{uuid.UUID(tenant_id).hex}_{secrets.token_urlsafe(32)}"
    return Secret(f"{stem}_{_checksum(stem)}", tenant_id)


def parse(text: str) -> Secret | None:
    """Read a secret; None when it was never one."""
    found = _SECRET.fullmatch(text)
    if found is None or found[3] != _checksum(found[1]):
        return None
    return Secret(text, str(uuid.UUID(found[2])))


async def store(
    tx: Transaction, agent_id: object, secret: Secret, *, name: str, scopes: list[str], expire_time: datetime
) -> Row:
    """Store a credential, unless the agent has two; in a transaction that has locked the agent."""
    if (await tx.only(_live, agent_id=agent_id))["live"] >= MOST_LIVE:
        raise CredentialLimit(agent_id)
    return await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        agent_id=agent_id,
        display_name=name,
        prefix=secret.prefix,
        secret_hash=secret.digest,
        scopes=scopes,
        expire_time=expire_time,
        created_by=calls.caller().id,
    )


def expiry(given: wire_pb.AgentCredential) -> datetime:
    """Say when a new credential ends, or what is wrong with the wish."""
    now = clock.now()
    expire_time = given.expire_time.ToDatetime(UTC) if given.HasField("expire_time") else now + LONGEST
    if not now < expire_time <= now + LONGEST:
        field, text = "agent_credential.expire_time", f"must be ahead, by {LONGEST.days} days at most"
        raise faults.RequestInvalid(f"{field}: {text}", violations={field: text}, fields=field)
    return expire_time


async def find(tx: Transaction, credential_id: str) -> Row:
    """Give the row of a credential, live or not."""
    row = await tx.one(_get, id=credential_id)
    if row is None:
        raise CredentialNotFound(credential_id)
    return row


async def expect_live(tx: Transaction, row: Row) -> None:
    """Refuse a credential that has ended."""
    if await tx.one(_is_live, id=row["id"]) is None:
        raise CredentialEnded(row["id"])


def successor_expiry(row: Row) -> datetime:
    """Say when the successor of a credential ends: it lives as long as its predecessor was meant to."""
    length: timedelta = row["expire_time"] - row["create_time"]
    return clock.now() + min(length, LONGEST)


async def replace(tx: Transaction, row: Row, successor: object) -> Row:
    """Give a credential its end, a day from now, and its successor."""
    replaced = await tx.one(_replace, credential_id=row["id"], overlap=OVERLAP, successor=successor)
    if replaced is None:
        raise CredentialEnded(row["id"])
    return replaced


async def end(tx: Transaction, row: Row) -> Row:
    """End a credential and its tokens; one that ended stays as it is."""
    ended = await tx.one(_revoke, credential_id=row["id"])
    if ended is not None:
        await revocations.of_session(tx, row["id"])
    return ended or row


async def end_all(tx: Transaction, agent_id: object) -> None:
    """End all credentials of an agent; its tokens end by its version."""
    await tx.all(_end_all, of_agent=agent_id)


def wire(row: Row) -> wire_pb.AgentCredential:
    """Give a credential without its secret."""
    return wire_pb.AgentCredential(
        id=str(row["id"]),
        agent_id=str(row["agent_id"]),
        display_name=row["display_name"],
        prefix=row["prefix"],
        scopes=row["scopes"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
        replaced_by=str(row["replaced_by"] or ""),
        last_use_time=row["last_use_time"],
        created_by=str(row["created_by"]),
        create_time=row["create_time"],
    )


def _checksum(stem: str) -> str:
    return f"{zlib.crc32(stem.encode()):08x}"
