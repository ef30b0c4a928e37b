"""Whether keys still work: asked of their providers every day, spread over it, and when their owners want to know.

Only a provider's own no makes a key invalid, and that is told in the audit log. A provider that gives no judgement, or
OpenBao being away, leaves the key as it is, to be asked about again in about an hour.
"""

import asyncio
import random
from datetime import timedelta
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import case, func, null, select, update

from services.kit import calls, clock, faults, outbox, requests
from services.kit.db import Database, Row, Statement, Transaction, param
from services.providers import envelopes, keys, providers
from services.providers.attempts import Attempts
from services.providers.connections import Connections, KeyRejectedByProvider, ProviderUnreachable
from services.providers.guards import Guard
from services.providers.keys import KeyNotCurrent, table
from services.providers.owners import caller
from triptych.providers.v1 import key_pb2, key_service_pb2 as pb

AT_ONCE = 8
"""Keys of a tenant that are asked about at the same time."""
MOST_TURNS = 8
"""So often in one round; the rest comes with the next, after the other tenants' keys."""
LEASE = timedelta(minutes=10)
"""How long a key that is being asked about is nobody else's; a process that dies leaves it that long."""
RETRY = timedelta(hours=1)
ALERT = "providers.key.invalidate"
_log = structlog.get_logger()
_due = (
    select(table.c.id)
    .join(providers.table, providers.table.c.id == table.c.provider_id)
    .where(
        (table.c.state == "active") | (table.c.state == "rotating"),
        table.c.validate_due <= func.now(),
        providers.table.c.active,
    )
    .order_by(table.c.validate_due)
    .limit(AT_ONCE)
    .with_for_update(of=table, skip_locked=True)
)
_claim = Statement(
    update(table).where(table.c.id.in_(_due)).values(validate_due=func.now() + LEASE).returning(*table.c)
)
_same = (
    (table.c.id == param("key_id"))
    & (table.c.encrypted_api_key == param("sealed"))
    & keys.unended
    & (table.c.expire_time.is_(None) | (table.c.expire_time > func.now()))
)
_accept = Statement(
    update(table)
    .where(_same)
    .values(
        state=case((table.c.state == "invalid", "active"), else_=table.c.state),
        state_reason=case((table.c.state == "invalid", ""), else_=table.c.state_reason),
        validate_time=param("now"),
        validate_due=param("due"),
        revision=case((table.c.state == "invalid", table.c.revision + 1), else_=table.c.revision),
        update_time=func.now(),
    )
    .returning(*table.c)
)
# A key that was replaced needs no second chance: it ends.
_over = table.c.state == "rotating"
_refuse = Statement(
    update(table)
    .where(_same)
    .values(
        state=case((_over, "expired"), else_="invalid"),
        state_reason=param("reason"),
        encrypted_api_key=case((_over, null()), else_=table.c.encrypted_api_key),
        encrypted_dek=case((_over, null()), else_=table.c.encrypted_dek),
        expire_time=case((_over, func.now()), else_=table.c.expire_time),
        validate_due=param("due"),
        revision=table.c.revision + 1,
        update_time=func.now(),
    )
    .returning(*table.c)
)
_doubt = Statement(
    update(table)
    .where(table.c.id == param("key_id"), table.c.validate_due > func.now())
    .values(validate_due=func.now())
)
_defer = Statement(update(table).where(_same).values(validate_due=param("due")))


class Verdict(NamedTuple):
    """What a provider said of a key."""

    row: Row
    refused: str
    """Why not; empty when it was accepted."""


class Validations:
    """Asks providers about keys."""

    def __init__(
        self,
        *,
        db: Database,
        vault: Guard,
        connections: Connections,
        attempts: Attempts,
        registry: CollectorRegistry,
    ) -> None:
        self._db = db
        self._vault = vault
        self._connections = connections
        self._attempts = attempts
        self._outcomes = Counter(
            "triptych_key_validations", "Keys that providers were asked about", ["outcome"], registry=registry
        )

    async def validate(self, request: pb.ValidateKeyRequest) -> pb.ValidateKeyResponse:
        """Ask now, for the caller."""
        async with self._db.begin() as tx:
            if (answer := await requests.recall(tx, request)) is not None:
                return answer  # type: ignore[no-any-return]
            row = await keys.seen(tx, request.key_id)
            _check_current(row)
            provider = await providers.row(tx, str(row["provider_id"]))
            providers.check_usable(provider, str(provider["id"]))
        self._vault.check()
        await self._attempts.count(calls.caller().tenant_id, caller())
        verdict = await self._judge(row, provider)

        async def store(tx: Transaction, _: pb.ValidateKeyRequest) -> pb.ValidateKeyResponse:
            key = await _store(tx, verdict)
            if key is None:  # it was revoked, replaced or validated meanwhile
                key = keys.wire(await keys.seen(tx, request.key_id))
            await outbox.record(tx, f"key:{key.id}", key)
            return pb.ValidateKeyResponse(key=key)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, store)

    async def validate_due(self, tenant_id: str) -> None:
        """Ask about the keys of a tenant whose day is over, if they are not too many for one round."""
        for _ in range(MOST_TURNS):
            async with self._db.begin(tenant=tenant_id) as tx:
                rows = await tx.all(_claim)
                known = {row["provider_id"]: await providers.row(tx, str(row["provider_id"])) for row in rows}
            if not rows:
                return
            await asyncio.gather(*(self._validate_due(row, known[row["provider_id"]]) for row in rows))

    async def _validate_due(self, row: Row, provider: Row) -> None:
        tenant_id = str(row["tenant_id"])
        try:
            verdict = await self._judge(row, provider)
        except faults.Fault as fault:  # nobody judged: the provider, OpenBao or DNS is away, or the envelope is damaged
            self._outcomes.labels("unjudged").inc()
            _log.info("a key was not judged", key_id=str(row["id"]), tenant=tenant_id, reason=fault.reason)
            due = clock.now() + RETRY * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            async with self._db.begin(tenant=tenant_id) as tx:
                await tx.run(_defer, key_id=row["id"], sealed=row["encrypted_api_key"], due=due)
            return
        async with self._db.begin(tenant=tenant_id) as tx:
            await _store(tx, verdict)

    async def _judge(self, row: Row, provider: Row) -> Verdict:
        """Ask the provider; a key is sent to the host that it is bound to and to no other."""
        if provider["destination_host"] != row["destination_host"]:
            raise ProviderUnreachable("the provider has moved to another host")
        dek = await envelopes.unwrap(self._vault, row)
        secret = None
        try:
            secret = envelopes.unseal(row, dek)
            await self._connections.prove(provider, secret)
        except KeyRejectedByProvider as refusal:
            self._outcomes.labels("refused").inc()
            return Verdict(row, f"the provider refused it with status {refusal.facts['status']}")
        finally:
            dek.wipe()
            if secret is not None:
                secret.wipe()
        self._outcomes.labels("accepted").inc()
        return Verdict(row, "")


async def doubt(tx: Transaction, key_id: str) -> None:
    """Have a key that was refused at a call asked about next; only that makes it invalid."""
    await tx.run(_doubt, key_id=key_id)


def _check_current(row: Row) -> None:
    if keys.state_name(row) in {"revoked", "expired"}:
        raise KeyNotCurrent(row)


async def _store(tx: Transaction, verdict: Verdict) -> key_pb2.Key | None:
    """Store what was said, if the key is still what was asked about."""
    row, now = verdict.row, clock.now()
    same = {"key_id": row["id"], "sealed": row["encrypted_api_key"], "due": keys.tomorrow(now)}
    if not verdict.refused:
        accepted = await tx.one(_accept, **same, now=now)
        return keys.wire(accepted) if accepted is not None else None
    refused = await tx.one(_refuse, **same, reason=verdict.refused)
    if refused is None:
        return None
    key = keys.wire(refused)
    if row["state"] != "invalid":
        await outbox.record(tx, f"key:{key.id}", key, action=ALERT, actor=("service", "providers"))
    return key
