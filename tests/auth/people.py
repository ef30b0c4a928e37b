"""Real people of the auth service: invited, registered, verified, logged in over the wire; and their mails."""

import asyncio
import email
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import grpc

from services.auth import bootstrap
from services.auth.blocklists import has
from tests.suite import Suite
from triptych.auth.v1 import auth_service_pb2 as pb, invitation_service_pb2 as invitation_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_pb2 import Invitation
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.common.v1.role_pb2 import Role

Stub = TypeVar("Stub")
PASSWORD = "a lamp, a heron, nine stairs"
assert not has(PASSWORD)


@dataclass(frozen=True)
class Somebody:
    """A person of the auth service, with what a login gave."""

    people: "People"
    email: str
    login: pb.LoginResponse

    @property
    def id(self) -> str:
        return self.login.user.id

    @property
    def tenant_id(self) -> str:
        return self.login.tenant_id

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Give a stub that calls with the access token of the login."""
        token = self.login.tokens.access_token
        return kind(self.people.suite.channel(kind, (("authorization", f"Bearer {token}"),)))

    async def invite(self, role: "Role.ValueType" = Role.ROLE_USER, **fields: Any) -> str:
        """Give the code of a new invitation."""
        request = invitation_pb.CreateInvitationRequest(invitation=Invitation(role=role, **fields))
        return (await self.stub(InvitationServiceStub).CreateInvitation(request)).code


class People:
    """Makes people and reads their mails."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.auth = suite.anonymous(AuthServiceStub)
        data_dir = suite.runtimes["auth"].settings.data_dir
        assert data_dir is not None
        self._mailbox: Path = data_dir / "mailbox"

    def address(self) -> str:
        """Give an address that nobody has."""
        return f"{uuid.uuid4().hex}@example.com"

    async def bootstrap(self) -> str:
        """Give the invitation of the first admin of a new tenant."""
        return await bootstrap.invite(self.suite.runtimes["auth"].db, f"t-{uuid.uuid4().hex[:12]}")

    async def register(self, code: str, address: str | None = None, **fields: Any) -> str:
        """Register somebody and give the address."""
        address = address or self.address()
        values = {"invitation_code": code, "email": address, "password": PASSWORD, "display_name": "Somebody"}
        await self.auth.Register(pb.RegisterRequest(**(values | fields)))
        return address

    async def mail(self, address: str, subject: str) -> EmailMessage:
        """Give the mail to an address, when it has come."""
        async with asyncio.timeout(10):
            while True:
                for file in self._mailbox.glob("*.eml"):
                    found = email.message_from_bytes(file.read_bytes(), EmailMessage, policy=default)
                    if found["To"] == address and subject in found["Subject"]:
                        return found
                await asyncio.sleep(0.01)

    async def code(self, address: str) -> str:
        """Give the code that went to an address."""
        found = re.search(r"trv_\S+", (await self.mail(address, "Prove")).get_content())
        assert found is not None
        return found[0]

    async def verify(self, address: str) -> None:
        """Prove an address."""
        await self.auth.VerifyEmail(pb.VerifyEmailRequest(code=await self.code(address)))

    async def login(self, address: str, password: str = PASSWORD) -> Somebody:
        """Log in."""
        answer = await self.auth.Login(pb.LoginRequest(email=address, password=password, device_name="test"))
        return Somebody(self, address, answer)

    async def join(self, code: str) -> Somebody:
        """Register, prove the address, log in."""
        address = await self.register(code)
        await self.verify(address)
        return await self.login(address)

    async def admin(self) -> Somebody:
        """Give the first admin of a new tenant."""
        return await self.join(await self.bootstrap())

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """Connect as the superuser, to see what the service cannot show, and to turn clocks back."""
        connection = await self.suite.backends.postgres_server.connect(self.suite.database)
        try:
            await connection.execute("SET search_path TO auth")
            yield connection
        finally:
            await connection.close()
