"""The RPCs of UserService."""

from services.auth import users
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.auth.v1 import user_service_pb2 as pb, user_service_pb2_grpc


class Users(user_service_pb2_grpc.UserServiceServicer):
    """People of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetUser(self, request: pb.GetUserRequest, context: object) -> pb.GetUserResponse:
        async with self._db.begin() as tx:
            return pb.GetUserResponse(user=await users.get(tx, request))

    async def ListUsers(self, request: pb.ListUsersRequest, context: object) -> pb.ListUsersResponse:
        async with self._db.begin() as tx:
            return await users.page(tx, self._pages.begin(request))
