"""Mail by SMTP, to a real server on loopback; and into files."""

import asyncio
import email
import stat
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiosmtpd.smtp import SMTP

from services.auth.mail import Letters, Mailbox, Smtp
from services.auth.settings import AuthSettings
from services.kit.settings import SettingsInvalid
from tests.auth.people import PASSWORD, People, Somebody
from tests.suite import Suite
from triptych.auth.v1 import auth_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub


class Inbox:
    """What the SMTP server received."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.received.put_nowait(envelope)
        return "250 OK"


@pytest.fixture
async def smtp() -> AsyncIterator[tuple[str, Inbox]]:
    inbox = Inbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(inbox), "127.0.0.1", 0)
    async with server:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}", inbox


async def test_register_sends_its_mail_by_smtp_with_the_link_of_the_settings(
    people: People, admin: Somebody, suite: Suite, smtp: tuple[str, Inbox]
) -> None:
    url, inbox = smtp
    server = await suite.launch(
        "auth", smtp_url=url, public_url="https://triptych.acme.example/", mail_from="triptych@acme.example"
    )
    address = people.address()
    request = pb.RegisterRequest(
        invitation_code=await admin.invite(), email=address, password=PASSWORD, display_name="Somebody"
    )
    options = [("grpc.default_authority", "evil.example")]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.plaintext_port}", options=options) as channel:
            await AuthServiceStub(channel).Register(request)
        envelope = await asyncio.wait_for(inbox.received.get(), 10)
    finally:
        await server.stop()
    message = email.message_from_bytes(envelope.content, EmailMessage, policy=default)
    text = message.get_content()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("triptych@acme.example", [address])
    assert "https://triptych.acme.example/verify-email#code=trv_" in text
    assert "evil" not in text


async def test_a_mail_server_that_is_away_fails_no_registration(people: People, admin: Somebody, suite: Suite) -> None:
    server = await suite.launch("auth", smtp_url="smtp://127.0.0.1:1")
    request = pb.RegisterRequest(
        invitation_code=await admin.invite(), email=people.address(), password=PASSWORD, display_name="Somebody"
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.plaintext_port}") as channel:
            assert await AuthServiceStub(channel).Register(request) == pb.RegisterResponse()
    finally:
        await server.stop()


async def test_closing_waits_for_mails_under_way(tmp_path: Path) -> None:
    letters = Letters(sender=Mailbox(tmp_path / "box"), from_address="a@example.com", public_url="")
    letters.known("b@example.com")
    letters.verify("b@example.com", "trv_code")
    await letters.close()
    files = list((tmp_path / "box").iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "box").stat().st_mode) == 0o700


def test_an_smtp_url_says_host_port_and_user() -> None:
    sender = Smtp("smtps://some%40one@mail.example", "secret")
    assert (sender._host, sender._port, sender._user, sender._tls) == ("mail.example", 465, "some@one", True)
    assert Smtp("smtp://mail.example", None)._port == 25


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"profile": "production", "listen_plaintext": ""}, "smtp_url"),
        ({"smtp_url": "http://mail.example"}, "smtp_url"),
        ({"lock_failures": 101}, "lock_failures"),
    ],
)
def test_settings_that_must_not_start(suite: Suite, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsInvalid, match=problem):
        AuthSettings.of(suite.values("auth", **changes))
