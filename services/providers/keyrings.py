"""What taking in and revoking a key needs beyond one transaction: the provider, OpenBao, data keys in memory."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from services.kit import calls, requests
from services.kit.db import Database, Transaction
from services.providers import deposits, envelopes, keys, rotations
from services.providers.attempts import Attempts
from services.providers.connections import Connections
from services.providers.deks import Deks
from services.providers.deposits import Draft, Sealed
from services.providers.envelopes import Binding
from services.providers.guards import Guard
from services.providers.secrets import Secret
from triptych.providers.v1 import key_service_pb2 as pb

SHOWN = 4
PREFIX, UNSEEN = 8, 16
"""Characters: of a prefix at most, and of a key that nobody is shown at least."""


class Keyring:
    """Takes keys in and puts them out of use."""

    def __init__(self, *, db: Database, vault: Guard, deks: Deks, attempts: Attempts, connections: Connections) -> None:
        self._db = db
        self._vault = vault
        self._deks = deks
        self._attempts = attempts
        self._connections = connections

    async def store(self, request: pb.StoreKeyRequest) -> pb.StoreKeyResponse:
        """Prove a key at its provider, seal it and store it, in this order: one that fails is not stored."""
        answer: pb.StoreKeyResponse = await self._take(request, deposits.draft, deposits.insert)
        return answer

    async def rotate(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        """Do the same with a new value, and put it in the place of the old."""
        answer: pb.RotateKeyResponse = await self._take(request, rotations.draft, rotations.replace)
        return answer

    async def revoke(self, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
        """Revoke a key and forget its data key."""
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, keys.revoke)
        self._deks.forget(answer.key.id)
        return answer

    async def _take(
        self, request: Any, begin: Callable[[Transaction, Any], Awaitable[Draft]], act: Callable[..., Awaitable[Any]]
    ) -> Any:
        async with self._db.begin() as tx:
            if (answer := await requests.recall(tx, request)) is not None:
                return answer
            draft = await begin(tx, request)
        self._vault.check()  # while OpenBao is away, attempts are not used up
        await self._attempts.count(calls.caller().tenant_id, draft.owner)
        secret = Secret(request.api_key)
        try:
            sealed = await self._seal(draft, secret)
        finally:
            secret.wipe()
        async with self._db.begin() as tx:
            return await requests.once(tx, request, partial(act, sealed=sealed))

    async def _seal(self, draft: Draft, secret: Secret) -> Sealed:
        """OpenBao is asked first: the key of somebody that cannot be stored is not sent around."""
        provider, tenant_id = draft.provider, str(draft.provider["tenant_id"])
        fingerprint = await envelopes.fingerprint(
            self._vault, secret, tenant_id=tenant_id, owner=draft.owner, provider_type=provider["type"]
        )
        await self._connections.prove(provider, secret)
        binding = Binding(tenant_id, draft.owner, str(provider["id"]), draft.key_id, provider["destination_host"])
        envelope = await envelopes.seal(self._vault, secret, binding)
        shown = secret.reveal_text()
        return Sealed(draft, envelope, fingerprint, prefix(shown), shown[-SHOWN:])


def prefix(api_key: str) -> str:
    """Give what says whose key it is and nothing of the key itself: `sk-proj-`, `hf_`; empty where that is not sure."""
    start = api_key[:PREFIX]
    shown = start[: max(start.rfind("-"), start.rfind("_")) + 1]
    return shown if len(api_key) - len(shown) - SHOWN >= UNSEEN else ""
