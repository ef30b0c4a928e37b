"""Invocations: one call to a model over the links of its chain: key, quota, call and charge, without the key leaving.

What may answer next is asked when a link fails before its first word; what it had held is given back first.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from services.kit import calls, faults, requests
from services.kit.db import Database
from services.providers import chains, keys, owners, validations
from services.providers.chains import Link
from services.providers.engagements import Call, Engagement, Engagements, Given
from services.providers.exchanges import Exchanges
from services.providers.failures import (
    CallFailed,
    CircuitOpen,
    KeyRefused,
    Kind,
    LocalModelMissing,
    ModelUnavailable,
    ProviderBusy,
    ProviderUnpaid,
)
from services.providers.keys import KeyNotFound
from services.providers.openings import Openings
from services.providers.secrets import Secret
from services.providers.tries import Tries
from triptych.providers.v1 import key_service_pb2, model_pb2

MARGIN = 0.5
"""Seconds of a call that are kept for settling it."""
SETTLED_SECONDS = 1.0
"""That a failed call waits for its hold to be gone."""
PASSED_ON = (
    CircuitOpen, KeyNotFound, KeyRefused, LocalModelMissing, ModelUnavailable, ProviderBusy, ProviderUnpaid,
)  # fmt: skip
"""After these the next link is asked; the others would fail in the same way at every link."""
MISSING = (KeyNotFound, LocalModelMissing)
_log = structlog.get_logger()


class Invocations:
    """Asks models."""

    def __init__(
        self, *, db: Database, engagements: Engagements, openings: Openings, exchanges: Exchanges, tries: Tries
    ) -> None:
        self._db = db
        self._engagements = engagements
        self._openings = openings
        self._exchanges = exchanges
        self._tries = tries

    async def run(self, request: Any, *, streaming: bool) -> AsyncGenerator[str | model_pb2.Invocation]:
        """Give the text of an answer, in pieces or whole, and at last what it came to."""
        call = _begin(request, streaming=streaming)
        async with self._db.begin() as tx:
            answer = await requests.recall(tx, request)
            chain = await chains.make(tx, request) if answer is None else ()
        if answer is not None:
            yield answer.invocation
            return
        resort = all(self._tries.is_open(link.provider) for link in chain)
        missed: list[faults.Fault] = []
        for link in chain:
            begun = False
            try:
                async with aclosing(self._linked(call, link, last_resort=resort)) as parts:
                    async for part in parts:
                        begun = True
                        yield part
            except Given as given:
                yield given.answer.invocation
                return
            except PASSED_ON as fault:
                if begun:
                    raise
                missed.append(fault)
            else:
                return
        raise next((fault for fault in missed if not isinstance(fault, MISSING)), missed[0])

    async def close(self) -> None:
        """Finish what was begun."""
        await self._engagements.close()
        await self._exchanges.close()

    async def _linked(self, call: Call, link: Link, *, last_resort: bool) -> AsyncGenerator[str | model_pb2.Invocation]:
        """Ask one link; the hold is settled whatever happens."""
        if link.owner is None and not self._exchanges.has_local():
            raise LocalModelMissing
        if (wait := self._tries.enter(link.provider, last_resort=last_resort)) is not None:
            raise CircuitOpen(wait)
        engagement: Engagement | None = None
        before = call.attempts
        key_id, key = "", None
        try:
            key_id, key = await self._key(link)
            engagement = await self._engagements.begin(call, link)
            async with aclosing(self._tries.pieces(engagement, key, last_resort=last_resort)) as pieces:
                async for piece in pieces:
                    if piece.text:
                        yield piece.text
            yield await self._engagements.commit(engagement)
        except CallFailed as failure:
            await self._failed(engagement, failure, key_id)
            raise failure.fault(key_id) from None
        finally:
            if call.attempts == before:
                self._tries.leave(link.provider)
            if key is not None:
                key.wipe()
            if engagement is not None and not engagement.settled:
                self._engagements.end(engagement)

    async def _key(self, link: Link) -> tuple[str, Secret | None]:
        if link.owner is None:
            return "", None
        request = key_service_pb2.ResolveKeyRequest(
            owner=owners.wire(link.owner),
            provider_id=str(link.provider["id"]),
            destination_host=link.provider["destination_host"],
        )
        try:
            answer = await self._openings.resolve(request)
        except KeyNotFound:
            await self._check_refused(link)
            raise
        return answer.key_id, Secret(answer.api_key)

    async def _check_refused(self, link: Link) -> None:
        """Say it when the caller has a key and the provider refused it: that helps, and nobody else's is spoken of."""
        if link.owner != owners.caller():
            return
        async with self._db.begin() as tx:
            row = await keys.find_invalid(tx, link.owner, str(link.provider["id"]))
        if row is not None:
            help_ = "ValidateKey asks anew, RotateKey replaces it"
            text = f"your key {row['label']!r} is invalid: {row['state_reason']}; {help_}"
            raise KeyRefused(text, key_id=row["id"], state=row["state"], state_reason=row["state_reason"])

    async def _failed(self, engagement: Engagement | None, failure: CallFailed, key_id: str) -> None:
        """Draw the consequences of a failure, so that the next link finds nothing held."""
        if engagement is None:
            return
        await asyncio.wait(
            [self._engagements.end(engagement)], timeout=max(min(engagement.call.left, SETTLED_SECONDS), 0)
        )
        if failure.kind is Kind.KEY and engagement.link.owner is not None:
            await self._doubt(engagement.call, key_id)

    async def _doubt(self, call: Call, key_id: str) -> None:
        """A key that was refused is proven anew soon; only that makes it invalid."""
        try:
            async with self._db.begin() as tx:
                await validations.doubt(tx, key_id)
        except faults.Fault as fault:
            _log.warning("a refused key is not proven anew", reason=fault.reason, tenant=call.tenant_id)


def _begin(request: Any, *, streaming: bool) -> Call:
    call = calls.current()
    if call is None:
        raise RuntimeError("models are asked for callers only")
    return Call(request, streaming, owners.caller(), call.caller.tenant_id, call.expires - MARGIN)
