"""The RPCs of KeyService."""

from services.kit.db import Database
from services.kit.paging import Pages
from services.providers import keys
from services.providers.keyrings import Keyring
from services.providers.openings import Openings
from services.providers.validations import Validations
from triptych.providers.v1 import key_service_pb2 as pb, key_service_pb2_grpc


class Keys(key_service_pb2_grpc.KeyServiceServicer):
    """Keys of the caller's tenant."""

    def __init__(
        self, *, db: Database, pages: Pages, keyring: Keyring, openings: Openings, validations: Validations
    ) -> None:
        self._db = db
        self._pages = pages
        self._keyring = keyring
        self._openings = openings
        self._validations = validations

    async def StoreKey(self, request: pb.StoreKeyRequest, context: object) -> pb.StoreKeyResponse:
        return await self._keyring.store(request)

    async def GetKey(self, request: pb.GetKeyRequest, context: object) -> pb.GetKeyResponse:
        async with self._db.begin() as tx:
            return pb.GetKeyResponse(key=await keys.get(tx, request.key_id))

    async def ListKeys(self, request: pb.ListKeysRequest, context: object) -> pb.ListKeysResponse:
        async with self._db.begin() as tx:
            return await keys.page(tx, self._pages.begin(request))

    async def RotateKey(self, request: pb.RotateKeyRequest, context: object) -> pb.RotateKeyResponse:
        return await self._keyring.rotate(request)

    async def ValidateKey(self, request: pb.ValidateKeyRequest, context: object) -> pb.ValidateKeyResponse:
        return await self._validations.validate(request)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: object) -> pb.RevokeKeyResponse:
        return await self._keyring.revoke(request)

    async def ResolveKey(self, request: pb.ResolveKeyRequest, context: object) -> pb.ResolveKeyResponse:
        return await self._openings.resolve(request)
