"""The people of the demo: how somebody comes in by invitation, proves an address and logs in."""

import asyncio
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.clients import Client
from triptych.auth.v1 import auth_service_pb2, invitation_pb2, invitation_service_pb2
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.common.v1.role_pb2 import Role

MAIL_SECONDS = 10.0


class MailMissing(Exception):
    """No mail came for an address."""


@dataclass
class Person:
    """Somebody who is logged in."""

    name: str
    email: str
    client: Client
    id: str = ""
    tenant_id: str = ""
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)


class Town:
    """Where people come from: the services' addresses and the development mailbox."""

    def __init__(self, addresses: dict[str, str], mailbox: Path) -> None:
        self._addresses = addresses
        self._mailbox = mailbox
        self.people: list[Person] = []

    async def arrive(self, name: str, invitation: str) -> Person:
        """Register with an invitation, prove the address with the code from the mail, log in."""
        person = Person(name, f"{name.lower()}@acme.example", Client(self._addresses))
        auth = person.client.stub(AuthServiceStub)
        await auth.Register(
            auth_service_pb2.RegisterRequest(
                invitation_code=invitation, email=person.email, password=person.password, display_name=name
            )
        )
        code = await self._code(person.email)
        await auth.VerifyEmail(auth_service_pb2.VerifyEmailRequest(code=code))
        answer = await auth.Login(
            auth_service_pb2.LoginRequest(email=person.email, password=person.password, device_name="demo")
        )
        person.client.token = answer.tokens.access_token
        person.id, person.tenant_id = answer.user.id, answer.tenant_id
        self.people.append(person)
        return person

    async def leave(self) -> None:
        """Close everybody's connections."""
        for person in self.people:
            await person.client.close()

    async def _code(self, email: str) -> str:
        """Wait for the mail to this address and take the code out of it; mail leaves after its call was answered."""
        deadline = asyncio.get_running_loop().time() + MAIL_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            for mail in sorted(self._mailbox.glob("*.eml"), reverse=True):
                text = mail.read_text(encoding="utf-8")
                if email in text and (found := re.search(r"\btrv_[0-9a-f]{32}_[A-Za-z0-9_-]{43}", text)):
                    return found.group()
            await asyncio.sleep(0.05)
        raise MailMissing(f"no mail with a code for {email} came into {self._mailbox}")


async def invite(person: Person, role: "Role.ValueType") -> str:
    """Make an invitation for one more person and give its code."""
    answer = await person.client.stub(InvitationServiceStub).CreateInvitation(
        invitation_service_pb2.CreateInvitationRequest(invitation=invitation_pb2.Invitation(role=role, max_uses=1))
    )
    return answer.code
