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

from services.auth.letters import MOST_UNDER_WAY, Letters
from services.auth.mail import Mailbox, Smtp
from services.auth.settings import AuthSettings
from services.kit import faults
from services.kit.settings import SettingsInvalid
from tests.auth.people import PASSWORD, People, Somebody, code_in
from tests.patience import within
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
        envelope = await within(inbox.received.get())
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


async def test_every_letter_leaves_by_smtp_to_the_address_as_it_is_stored_with_its_code_whole(
    people: People, admin: Somebody, smtp: tuple[str, Inbox]
) -> None:
    url, inbox = smtp
    somebody = await people.join(await admin.invite())
    await somebody.reauthenticate()
    unproven = await people.register(await admin.invite())
    new = people.address()
    received: list[EmailMessage] = []

    async def next_letters(count: int) -> None:
        for _ in range(count):
            envelope = await within(inbox.received.get())
            message = email.message_from_bytes(envelope.content, EmailMessage, policy=default)
            assert envelope.rcpt_tos == [message["To"]]
            received.append(message)

    bearer = (("authorization", f"Bearer {somebody.login.tokens.access_token}"),)
    public = "https://triptych.acme.example"
    async with people.server(bearer, smtp_url=url, public_url=public) as auth:
        await auth.ResendVerification(pb.ResendVerificationRequest(email=unproven.upper()))
        await next_letters(1)
        await auth.ChangeEmail(pb.ChangeEmailRequest(new_email=new))
        await next_letters(2)
        moving = next(message for message in received if message["To"] == new)
        await auth.VerifyEmail(pb.VerifyEmailRequest(code=code_in(moving)))
        await next_letters(1)
        await auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=new.upper()))
        await next_letters(1)
        code = code_in(received[-1])
        await auth.ResetPassword(pb.ResetPasswordRequest(code=code, new_password="two herons, eight lamps, rain"))
        await next_letters(1)
    assert sorted((message["To"], message["Subject"]) for message in received) == sorted(
        [
            (unproven, "Prove your address for Triptych"),
            (new, "Prove your new address for Triptych"),
            (somebody.email, "A new address for your Triptych account was asked for"),
            (somebody.email, "The address of your Triptych account was changed"),
            (new, "A new password for Triptych"),
            (new, "Your password for Triptych was changed"),
        ]
    )
    for message in received:
        text = message.get_content()
        if "tr" in text and "#code=" in text:
            assert f"#code={code_in(message)}" in text
        assert not any(PASSWORD in line for line in text.splitlines())


async def test_a_mail_that_is_lost_can_be_asked_for_again(people: People, admin: Somebody) -> None:
    async with people.server(smtp_url="smtp://127.0.0.1:1") as auth:
        address = people.address()
        await auth.Register(
            pb.RegisterRequest(
                invitation_code=await admin.invite(), email=address, password=PASSWORD, display_name="Somebody"
            )
        )
        await auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=admin.email))
    assert people.mailed(address) == []
    await people.auth.ResendVerification(pb.ResendVerificationRequest(email=address))
    await people.verify(address)
    await people.login(address)
    await people.auth.RequestPasswordReset(pb.RequestPasswordResetRequest(email=admin.email))
    await people.mail(admin.email, "A new password")


async def test_a_letter_that_cannot_be_prepared_ends_no_other(tmp_path: Path) -> None:
    letters = Letters(sender=Mailbox(tmp_path / "box"), from_address="a@example.com", public_url="")

    async def fail() -> None:
        raise faults.DependencyUnavailable("the database does not answer; retry", dependency="postgres")

    async def break_down() -> None:
        raise RuntimeError("a defect")

    letters.later(fail)
    letters.later(break_down)
    letters.known("b@example.com")
    await letters.close()
    letters.known("b@example.com")
    await letters.close()
    assert len(list((tmp_path / "box").iterdir())) == 2


async def test_too_many_letters_at_once_are_not_begun(tmp_path: Path) -> None:
    letters = Letters(sender=Mailbox(tmp_path / "box"), from_address="a@example.com", public_url="")
    for _ in range(MOST_UNDER_WAY + 3):
        letters.known("b@example.com")
    await letters.close()
    assert len(list((tmp_path / "box").iterdir())) == MOST_UNDER_WAY


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


def test_a_password_does_not_leave_this_machine_in_clear() -> None:
    assert Smtp("smtp://mail.example.com", "secret")._starttls is True
    assert Smtp("smtp://mail.example.com", None)._starttls is None
    assert Smtp("smtps://mail.example.com", "secret")._starttls is None
