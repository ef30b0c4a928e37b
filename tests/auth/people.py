"""Real people of the auth service: invited, registered, verified, logged in over the wire; and their mails."""

import email
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import grpc

from services.auth import bootstrap
from services.auth.blocklists import has
from services.kit.clients import adding, interceptors
from tests.patience import SECONDS, until
from tests.suite import Suite, superuser_of
from triptych.auth.v1 import auth_service_pb2 as pb, invitation_service_pb2 as invitation_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_pb2 import Invitation
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.common.v1.role_pb2 import Role

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

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

    async def reauthenticate(self, password: str = PASSWORD) -> None:
        """Show again who this is."""
        await self.stub(AuthServiceStub).Reauthenticate(pb.ReauthenticateRequest(password=password))

    async def invite(self, role: "Role.ValueType" = Role.ROLE_USER, **fields: Any) -> str:
        """Give the code of a new invitation."""
        request = invitation_pb.CreateInvitationRequest(invitation=Invitation(role=role, **fields))
        return (await self.stub(InvitationServiceStub).CreateInvitation(request)).code


@cache
def _read(file: Path) -> tuple[str, str, EmailMessage]:
    """Read a mail, once: a mailbox of the whole session is looked through many times a second."""
    mail = email.message_from_bytes(file.read_bytes(), EmailMessage, policy=default)
    return str(mail["To"]), str(mail["Subject"]), mail


def code_in(message: EmailMessage) -> str:
    """Give the code that a mail holds."""
    found = re.search(r"tr[vp]_[0-9a-f]{32}_\S{43}", message.get_content())
    assert found is not None
    return found[0]


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
        """Give the first mail to an address, when it has come."""
        return (await self.mails(address, subject))[0]

    async def mails(self, address: str, subject: str, count: int = 1) -> list[EmailMessage]:
        """Give the mails to an address, oldest first, when so many have come."""
        await until(lambda: len(self.mailed(address, subject)) >= count)
        return self.mailed(address, subject)

    def mailed(self, address: str, subject: str = "") -> list[EmailMessage]:
        """Give the mails to an address that have come by now, oldest first."""
        return [
            mail
            for to, about, mail in map(_read, sorted(self._mailbox.glob("*.eml")))
            if to == address and subject in about
        ]

    @asynccontextmanager
    async def server(self, metadata: Any = (), **changes: Any) -> "AsyncIterator[AuthServiceAsyncStub]":
        """Run one more server; its mails have all left when it has stopped."""

        def outfit(details: Any, _: Any) -> grpc.aio.ClientCallDetails:
            return adding(details, metadata=metadata, timeout=details.timeout or SECONDS)

        runtime = await self.suite.launch("auth", **changes)
        try:
            target = f"127.0.0.1:{runtime.plaintext_port}"
            async with grpc.aio.insecure_channel(target, interceptors=interceptors("peer", outfit)) as channel:
                yield AuthServiceStub(channel)
        finally:
            await runtime.stop()

    async def code(self, address: str, subject: str = "Prove", count: int = 1) -> str:
        """Give the code of the newest of so many mails to an address."""
        return code_in((await self.mails(address, subject, count))[-1])

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
        async with superuser_of(self.suite.backends, self.suite.database) as connection:
            await connection.execute("SET search_path TO auth")
            yield connection
