"""The RPCs of AuthService.

Those that strangers call keep the expensive and the slow (hashes, Valkey) outside transactions, and commit what must
stay, such as the count of a failed login, before they refuse.
"""

from dataclasses import dataclass

from services.auth import (
    addresses,
    endings,
    invitations,
    passwords,
    refusals,
    registrations,
    sessions,
    sources,
    switches,
    verifications,
)
from services.auth.assertions import Assertions
from services.auth.completions import Completions
from services.auth.confirmations import Confirmations
from services.auth.keys import Keys
from services.auth.letters import Letters
from services.auth.logins import Logins
from services.auth.moves import Moves
from services.auth.passwords import Passwords
from services.auth.replacements import Replacements
from services.auth.resets import Resets
from services.auth.settings import AuthSettings
from services.auth.sources import Sources
from services.auth.tokens import Minting
from services.auth.verifications import Verifications
from services.kit import requests
from services.kit.db import Database
from triptych.auth.v1 import auth_service_pb2 as pb, auth_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Changes:
    """What people change of how they log in."""

    verifications: Verifications
    moves: Moves
    resets: Resets
    replacements: Replacements


@dataclass(frozen=True, slots=True)
class Ways:
    """How people show who they are."""

    logins: Logins
    completions: Completions
    assertions: Assertions
    confirmations: Confirmations


class Auth(auth_service_pb2_grpc.AuthServiceServicer):
    """Registration, login, sessions, public keys."""

    def __init__(
        self,
        *,
        db: Database,
        keys: Keys,
        passwords: Passwords,
        sources: Sources,
        letters: Letters,
        ways: Ways,
        changes: Changes,
        minting: Minting,
        settings: AuthSettings,
    ) -> None:
        self._db = db
        self._keys = keys
        self._passwords = passwords
        self._sources = sources
        self._letters = letters
        self._ways = ways
        self._changes = changes
        self._minting = minting
        self._settings = settings

    async def Register(self, request: pb.RegisterRequest, context: object) -> pb.RegisterResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        address = addresses.parse(request.email)
        passwords.check(request.password, address)
        async with refusals.noted(self._db, f"address:{address.digest.hex()}", source):
            code = invitations.parse(request.invitation_code)
            with self._passwords.place():
                async with self._db.begin(tenant=code.tenant_id) as tx:
                    await invitations.expect(tx, code)
                hashed = await self._passwords.hash(request.password)
            applicant = registrations.Applicant(address, code, hashed, source)
            async with self._db.begin(tenant=code.tenant_id) as tx:
                return await requests.once(
                    tx, request, lambda tx, request: registrations.create(tx, request, applicant, self._letters)
                )

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: object) -> pb.VerifyEmailResponse:
        code = verifications.parse(request.code)
        async with self._db.begin(tenant=code.tenant_id) as tx:
            return await requests.once(
                tx, request, lambda tx, _: verifications.use(tx, code, sources.of(context), self._letters)
            )

    async def ResendVerification(
        self, request: pb.ResendVerificationRequest, context: object
    ) -> pb.ResendVerificationResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._changes.verifications.resend(request, source)

    async def Login(self, request: pb.LoginRequest, context: object) -> pb.LoginResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._ways.logins.begin(request, source)

    async def CompleteLogin(self, request: pb.CompleteLoginRequest, context: object) -> pb.CompleteLoginResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._ways.completions.complete(request, source)

    async def BeginPasskeyLogin(
        self, request: pb.BeginPasskeyLoginRequest, context: object
    ) -> pb.BeginPasskeyLoginResponse:
        await self._sources.admit(sources.of(context))
        return await self._ways.assertions.begin(request)

    async def FinishPasskeyLogin(
        self, request: pb.FinishPasskeyLoginRequest, context: object
    ) -> pb.FinishPasskeyLoginResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._ways.assertions.finish(request, source)

    async def Reauthenticate(self, request: pb.ReauthenticateRequest, context: object) -> pb.ReauthenticateResponse:
        return await self._ways.confirmations.confirm(request, sources.of(context))

    async def SwitchTenant(self, request: pb.SwitchTenantRequest, context: object) -> pb.SwitchTenantResponse:
        source = sources.of(context)
        async with self._db.begin() as tx:
            left = await switches.leave(tx, request, source)
        async with self._db.begin(tenant=request.tenant_id) as tx:
            return await switches.enter(tx, left, source, settings=self._settings, minting=self._minting)

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: object
    ) -> pb.RequestPasswordResetResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._changes.resets.request(request, source)

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: object) -> pb.ResetPasswordResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        return await self._changes.resets.use(request, source)

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: object) -> pb.ChangePasswordResponse:
        return await self._changes.replacements.change(request, sources.of(context))

    async def ChangeEmail(self, request: pb.ChangeEmailRequest, context: object) -> pb.ChangeEmailResponse:
        return await self._changes.moves.begin(request, sources.of(context))

    async def Refresh(self, request: pb.RefreshRequest, context: object) -> pb.RefreshResponse:
        source = sources.of(context)
        given = self._minting.refresh.parse(request.refresh_token)
        if given is None:
            raise sessions.SessionInvalid
        async with self._db.begin(tenant=given.tenant_id) as tx:
            answer = await sessions.refresh(tx, given, self._settings, self._minting, source)
            if answer is None:
                await endings.end_reused(tx, given, self._settings, source)
        if answer is None:
            raise sessions.SessionInvalid
        return answer

    async def Logout(self, request: pb.LogoutRequest, context: object) -> pb.LogoutResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, _: endings.log_out(tx, sources.of(context)))

    async def GetSigningKeys(self, request: pb.GetSigningKeysRequest, context: object) -> pb.GetSigningKeysResponse:
        answer = pb.GetSigningKeysResponse(issuer=self._settings.issuer, audience=self._settings.audience)
        for key in await self._keys.published():
            found = answer.keys.add(key_id=key.key_id, public_key=key.public_key)
            found.not_before.FromMicroseconds(round(key.not_before * 1_000_000))
            found.not_after.FromMicroseconds(round(key.not_after * 1_000_000))
        return answer
