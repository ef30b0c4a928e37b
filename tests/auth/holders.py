"""People who hold second factors."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.auth.authenticators import App, Passkey
from tests.auth.people import PASSWORD, People, Somebody
from triptych.auth.v1 import auth_service_pb2 as pb, factor_service_pb2 as factor_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.factor_service_pb2_grpc import FactorServiceAsyncStub


@dataclass
class Holder:
    """Somebody, logged in, with an authenticator app."""

    somebody: Somebody
    app: App
    codes: list[str] = field(default_factory=list)
    """Recovery codes."""

    @property
    def people(self) -> People:
        return self.somebody.people

    @property
    def factors(self) -> "FactorServiceAsyncStub":
        return self.somebody.stub(FactorServiceStub)

    async def ticket(self, **fields: str) -> str:
        """Give the password and get a ticket."""
        request = pb.LoginRequest(**({"email": self.somebody.email, "password": PASSWORD} | fields))
        answer = await self.people.auth.Login(request)
        assert not answer.HasField("tokens")
        assert not answer.HasField("user")
        return answer.login_ticket

    async def complete(self, ticket: str, code: str) -> pb.CompleteLoginResponse:
        """Give a code with a ticket: six digits, or a recovery code."""
        kind = "totp_code" if len(code) == 6 else "recovery_code"
        return await self.people.auth.CompleteLogin(pb.CompleteLoginRequest(login_ticket=ticket, **{kind: code}))

    async def reauthenticate(self, password: str = PASSWORD, code: str | None = None) -> pb.ReauthenticateResponse:
        """Show again who this is."""
        code = self.app.code() if code is None else code
        request = pb.ReauthenticateRequest(password=password, code=code)
        return await self.somebody.stub(AuthServiceStub).Reauthenticate(request)

    async def forget_steps(self) -> None:
        """Let codes of now be good again, instead of waiting for the next half minute."""
        await self.change("UPDATE totp_secrets SET last_step = 0 WHERE user_id = $1", self.somebody.id)

    async def change(self, statement: str, *values: object) -> None:
        """Change the database as nobody can."""
        async with self.people.database() as database:
            await database.execute(statement, *values)

    async def failures(self) -> int:
        """Say how many wrong codes are counted."""
        query = "SELECT failures FROM factor_attempts WHERE user_id = $1"
        async with self.people.database() as database:
            return await database.fetchval(query, self.somebody.id) or 0


async def enroll(somebody: Somebody) -> Holder:
    """Turn TOTP on for somebody who has no factor."""
    await somebody.reauthenticate()
    factors = somebody.stub(FactorServiceStub)
    app = App((await factors.EnrollTotp(factor_pb.EnrollTotpRequest())).secret)
    confirmed = await factors.ConfirmTotp(factor_pb.ConfirmTotpRequest(code=app.code()))
    return Holder(somebody, app, list(confirmed.recovery_codes))


async def add_passkey(somebody: Somebody, passkey: Passkey) -> factor_pb.FinishPasskeyRegistrationResponse:
    """Register a passkey for somebody who reauthenticated."""
    factors = somebody.stub(FactorServiceStub)
    begun = await factors.BeginPasskeyRegistration(factor_pb.BeginPasskeyRegistrationRequest())
    request = factor_pb.FinishPasskeyRegistrationRequest(
        credential_json=passkey.register(begun.options_json), display_name="a key"
    )
    return await factors.FinishPasskeyRegistration(request)
