"""What storing, opening and revoking a key takes beyond one transaction: the provider, OpenBao, data keys in memory."""

from functools import partial

from services.kit import calls, faults, requests
from services.kit.db import Database
from services.kit.vault import Vault
from services.providers import envelopes, keys
from services.providers.attempts import Attempts
from services.providers.connections import Connections
from services.providers.deks import Deks
from services.providers.envelopes import Binding
from services.providers.keys import Draft, Sealed
from services.providers.secrets import Secret
from triptych.providers.v1 import key_service_pb2 as pb

TRIES = 3


class Keyring:
    """Stores and opens keys."""

    def __init__(self, *, db: Database, vault: Vault, deks: Deks, attempts: Attempts, connections: Connections) -> None:
        self._db = db
        self._vault = vault
        self._deks = deks
        self._attempts = attempts
        self._connections = connections

    async def store(self, request: pb.StoreKeyRequest) -> pb.StoreKeyResponse:
        """Prove a key at its provider, seal it and store it, in this order: one that fails is not stored."""
        async with self._db.begin() as tx:
            if (answer := await requests.recall(tx, request)) is not None:
                return answer  # type: ignore[no-any-return]
            draft = await keys.draft(tx, request.provider_id)
        await self._attempts.count(calls.caller().tenant_id, draft.owner)
        secret = Secret(request.api_key)
        try:
            sealed = await self._seal(draft, secret)
        finally:
            secret.wipe()
        async with self._db.begin() as tx:
            return await requests.once(tx, request, partial(keys.insert, sealed=sealed))

    async def resolve(self, request: pb.ResolveKeyRequest) -> pb.ResolveKeyResponse:
        """Open a key; with its data key in memory that takes one transaction and nobody else."""
        for _ in range(TRIES):
            async with self._db.begin() as tx:
                row = await keys.find(tx, request)
                dek = self._deks.find(row["id"])
                if dek is not None:
                    opened = envelopes.unseal(row, dek)
                    dek.wipe()
                    await keys.record_use(tx, row)
            if dek is not None:
                answer = pb.ResolveKeyResponse(key_id=str(row["id"]), api_key=opened.reveal_text())
                opened.wipe()
                return answer
            await self._deks.fetch(row)
        raise faults.ServerBusy("too many keys are being opened at once; retry")

    async def revoke(self, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
        """Revoke a key and forget its data key."""
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, keys.revoke)
        self._deks.forget(answer.key.id)
        return answer

    async def _seal(self, draft: Draft, secret: Secret) -> Sealed:
        """OpenBao is asked first: the key of somebody that cannot be stored is not sent around."""
        provider, tenant_id = draft.provider, str(draft.provider["tenant_id"])
        fingerprint = await envelopes.fingerprint(
            self._vault, secret, tenant_id=tenant_id, owner=draft.owner, provider_type=provider["type"]
        )
        await self._connections.prove(provider, secret)
        host = provider["destination_host"]
        binding = Binding(tenant_id, draft.owner, str(provider["id"]), draft.key_id, host)
        return Sealed(draft, await envelopes.seal(self._vault, secret, binding), fingerprint)
