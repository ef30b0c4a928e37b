"""The RPCs of UserService."""

from services.auth import accounts, profiles, refusals, sources
from services.kit import calls, requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import user_service_pb2 as pb, user_service_pb2_grpc


class Users(user_service_pb2_grpc.UserServiceServicer):
    """People of the caller's tenant. What is denied is noted, beside what is done."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetUser(self, request: pb.GetUserRequest, context: object) -> pb.GetUserResponse:
        async with self._db.begin() as tx:
            return pb.GetUserResponse(user=await profiles.get(tx, request))

    async def ListUsers(self, request: pb.ListUsersRequest, context: object) -> pb.ListUsersResponse:
        async with self._db.begin() as tx:
            return await profiles.page(tx, request, self._pages.begin(request))

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: object) -> pb.UpdateUserResponse:
        async with refusals.noted(self._db, _user(request.user.id), sources.of(context)), self._db.begin() as tx:
            return await requests.once(tx, request, profiles.change)

    async def DeactivateUser(self, request: pb.DeactivateUserRequest, context: object) -> pb.DeactivateUserResponse:
        source = sources.of(context)
        async with refusals.noted(self._db, _user(request.user_id), source), self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: accounts.deactivate(tx, request, source))

    async def ReactivateUser(self, request: pb.ReactivateUserRequest, context: object) -> pb.ReactivateUserResponse:
        source = sources.of(context)
        async with refusals.noted(self._db, _user(request.user_id), source), self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: accounts.reactivate(tx, request, source))

    async def UnlockUser(self, request: pb.UnlockUserRequest, context: object) -> pb.UnlockUserResponse:
        source = sources.of(context)
        async with refusals.noted(self._db, _user(request.user_id), source), self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, request: accounts.unlock(tx, request, source))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: object) -> pb.DeleteUserResponse:
        source = sources.of(context)
        async with refusals.noted(self._db, _user(request.user_id), source):
            async with self._db.begin() as tx:
                home = await accounts.expect(tx, request)
            async with self._db.begin(tenant=home) as tx:
                return await requests.once(tx, request, lambda tx, request: accounts.erase(tx, request, source))


def _user(user_id: str) -> str:
    return f"user:{user_id or calls.caller().id}"
