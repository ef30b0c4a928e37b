"""request_id: the first answer of a mutation is stored in its own transaction and given again for 24 h.

Fifty equal requests at once make one change: the second waits on the first one's row. What is marked sensitive is not
stored, so a repeated answer lacks it. The relay removes what is older, every ten minutes, whether audit answers or not.
"""

import hmac
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import calls, faults
from services.kit.db import Row, Statement, Transaction, param, params
from triptych.common.v1 import options_pb2

KEPT = timedelta(hours=24)
Answer = TypeVar("Answer", bound=Message)

requests = Table(
    "requests",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("actor_id", Text, primary_key=True),
    Column("request_id", Uuid, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("answer", LargeBinary),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_mine = (requests.c.tenant_id == param("tenant_id")) & (requests.c.actor_id == param("actor_id")) & (
    requests.c.request_id == param("request_id")
)  # fmt: skip
_claim = Statement(
    upsert(requests)
    .values(**params("tenant_id actor_id request_id body_hash"))
    .on_conflict_do_nothing()
    .returning(requests.c.request_id)
)
_find = Statement(select(requests.c.body_hash, requests.c.answer).where(_mine))
_store = Statement(update(requests).where(_mine).values(answer=param("answer")))
_identity = tuple_(requests.c.tenant_id, requests.c.actor_id, requests.c.request_id)
_old = select(*_identity.clauses).where(requests.c.create_time < func.now() - KEPT).order_by(requests.c.create_time)
_purge = Statement(delete(requests).where(_identity.in_(_old.limit(param("most")))))
STEP = 5000
"""Answers that one transaction removes."""


class RequestIdReused(faults.InvalidArgument):
    """The id was used before with another body or method."""


async def once(tx: Transaction, request: Any, act: Callable[[Transaction, Any], Awaitable[Answer]]) -> Answer:
    """Act on the request, or give the answer that its request_id got before."""
    call = calls.current()
    if call is None or not request.request_id:
        return await act(tx, request)
    key, digest = _key(tx, call, request), _digest(tx, call, request)
    if await tx.one(_claim, **key, body_hash=digest) is None:
        return _given_again(await tx.one(_find, **key), call, request, digest)  # type: ignore[no-any-return]
    answer = await act(tx, request)
    await tx.run(_store, **key, answer=without_secrets(answer).SerializeToString())
    return answer


async def recall(tx: Transaction, request: Any) -> Any:
    """Give the answer that the request_id got before, or None: for work that asks others before it can act."""
    call = calls.current()
    if call is None or not request.request_id:
        return None
    stored = await tx.one(_find, **_key(tx, call, request))
    return None if stored is None else _given_again(stored, call, request, _digest(tx, call, request))


async def purge(tx: Transaction) -> bool:
    """Forget some of the answers whose time is over, of all tenants, as the relay; False when those were all."""
    return await tx.run(_purge, most=STEP) == STEP


def _key(tx: Transaction, call: calls.Call, request: Any) -> dict[str, str]:
    return {"tenant_id": tx.tenant_id, "actor_id": call.caller.id, "request_id": request.request_id}


def _digest(tx: Transaction, call: calls.Call, request: Any) -> bytes:
    body = request.SerializeToString(deterministic=True)
    return hmac.digest(tx.database.request_key, call.method.path.encode() + b"\0" + body, "sha256")


def _given_again(stored: Row | None, call: calls.Call, request: Any, digest: bytes) -> Any:
    if stored is None or stored["body_hash"] != digest:
        raise RequestIdReused(
            "this request_id was used with another request; take a new one", request_id=request.request_id
        )
    call.recorded = True
    return call.method.response.FromString(stored["answer"])


def without_secrets(message: Answer) -> Answer:
    """Give a copy of a message whose sensitive fields are empty, at any depth."""
    copy = type(message)()
    copy.CopyFrom(message)
    _clear_secrets(copy)
    return copy


def _clear_secrets(message: Message) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[options_pb2.sensitive]:
            message.ClearField(field.name)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if field.is_repeated else [value]:
                _clear_secrets(item)
