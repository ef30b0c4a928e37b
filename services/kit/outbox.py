"""Audit events, written in the transaction of the change that they tell of; `relays` brings them to audit.

Details are made plain: no secrets, no fractions, nothing larger or deeper than the log takes. Personal values are
committed to, and what opens the commitments stays here only until the event has left.
"""

import base64
import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text, Uuid, func, insert
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import calls, commitments
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Statement, Transaction, params
from services.kit.requests import without_secrets
from services.kit.validation import DEEPEST

LARGEST_PAYLOAD = 24 * 1024
"""Bytes of details in an event; what is larger, or deeper than the log takes, is replaced by its digest."""
LONGEST_ENTITY, LONGEST_ACTOR = 200, 64
OPENINGS = "$openings"
"""Where, in a payload that has not left yet, what opens its commitments is kept: path, salt (base64), value."""

outbox = Table(
    "outbox",
    MetaData(),
    Column("event_id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("entity", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("occur_time", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("xid", Text, nullable=False, server_default=func.pg_current_xact_id()),
    Column("source_seq", BigInteger),
    Column("log_seq", BigInteger),
    Column("log_leaf", Text),
    Column("deliver_time", DateTime(timezone=True)),
    implicit_returning=False,  # the app role may write events and not read them
)
_COMPOSED = ("tenant_id", "entity", "action", "actor_kind", "actor_id", "payload", "correlation_id")
_record = Statement(insert(outbox).values(**params(" ".join(_COMPOSED))))
_RECORD_ALL = f"""
INSERT INTO outbox ({", ".join(_COMPOSED)})
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[])
"""


async def record(
    tx: Transaction,
    entity: str,
    details: Message | Mapping[str, Any] | None = None,
    *,
    action: str | None = None,
    actor: tuple[str, str] | None = None,
    personal: Iterable[str] = (),
) -> None:
    """Write an audit event in this transaction.

    `entity` is kind and id (`project:0197...`). `action` is that of the RPC's rule unless another is given, as
    background work must. `actor` is (kind, id), the caller unless given. `details` are stripped of secrets. `personal`
    are JSON Pointers to personal values in the details: the log gets commitments to them, so that they can be erased.
    """
    await record_all(tx, [compose(tx.tenant_id, entity, details, action=action, actor=actor, personal=personal)])


async def record_all(tx: Transaction, events: Sequence[Mapping[str, Any]]) -> None:
    """Write events that `compose` made, in one round trip."""
    if len(events) == 1:
        await tx.run(_record, **events[0])
    else:
        columns = ([event[name] for event in events] for name in _COMPOSED)
        await tx.connection.execute(_RECORD_ALL, *columns)
    tx.on_commit(tx.database.wake)


def compose(
    tenant_id: str,
    entity: str,
    details: Message | Mapping[str, Any] | None = None,
    *,
    action: str | None = None,
    actor: tuple[str, str] | None = None,
    personal: Iterable[str] = (),
) -> dict[str, Any]:
    """Make the row of an event of the RPC that this context serves, for work that writes those of several at once."""
    call = calls.current()
    caller = calls.caller()
    if call is not None:
        call.recorded = True
    if action is None:
        if call is None or not call.method.audit:
            raise RuntimeError("no RPC with an audit action is being served: name the action")
        action = call.method.audit
    kind, actor_id = actor or (caller.kind, caller.id)
    if not 0 < len(entity) <= LONGEST_ENTITY or len(actor_id) > LONGEST_ACTOR:
        raise ValueError(f"the log takes no such entity or actor: {entity!r}, {actor_id!r}")
    return {
        "tenant_id": tenant_id or SYSTEM_TENANT,
        "entity": entity,
        "action": action,
        "actor_kind": kind,
        "actor_id": actor_id,
        "payload": _payload(details, personal),
        "correlation_id": call.request_id if call is not None else str(uuid.uuid4()),
    }


def unchanged() -> None:
    """Say that the RPC succeeded and changed nothing, so that there is nothing to record (a queue was empty)."""
    call = calls.current()
    if call is not None:
        call.recorded = True


def _payload(details: Message | Mapping[str, Any] | None, personal: Iterable[str] = ()) -> dict[str, Any]:
    """Plain values in which every number that is no integer is a string, as the log's canonical form demands."""
    if details is None:
        return {}
    if isinstance(details, Message):
        details = json_format.MessageToDict(without_secrets(details), preserving_proto_field_name=True)
    exact = {name: _exact(value) for name, value in details.items()}
    opened = [
        {"path": opening.path, "salt": base64.b64encode(opening.salt).decode(), "value": opening.value}
        for opening in commitments.commit(exact, personal)
    ]
    text = orjson.dumps(exact, option=orjson.OPT_SORT_KEYS)
    if max(len(text), len(orjson.dumps(opened))) <= LARGEST_PAYLOAD and not _deeper(exact, DEEPEST):
        return exact | {OPENINGS: opened} if opened else exact
    return {"details_sha256": hashlib.sha256(text).hexdigest(), "details_bytes": len(text)}


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)


def _exact(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, Mapping):
        return {str(name): _exact(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(item) for item in value]
    return str(value)
