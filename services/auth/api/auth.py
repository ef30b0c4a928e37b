"""The RPCs of AuthService.

Those that strangers call keep the expensive and the slow (hashes, Valkey) outside transactions, and commit what must
stay, such as the count of a failed login, before they refuse.
"""

from services.auth import addresses, invitations, logins, passwords, registrations, sessions, sources, verifications
from services.auth.keys import Keys
from services.auth.mail import Letters
from services.auth.passwords import Passwords
from services.auth.settings import AuthSettings
from services.auth.sources import Sources
from services.auth.tokens import Minting
from services.kit import requests
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database
from triptych.auth.v1 import auth_service_pb2 as pb, auth_service_pb2_grpc


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
        minting: Minting,
        settings: AuthSettings,
    ) -> None:
        self._db = db
        self._keys = keys
        self._passwords = passwords
        self._sources = sources
        self._letters = letters
        self._minting = minting
        self._settings = settings

    async def Register(self, request: pb.RegisterRequest, context: object) -> pb.RegisterResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        address = addresses.parse(request.email)
        passwords.check(request.password, address)
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
            return await requests.once(tx, request, lambda tx, _: verifications.use(tx, code, sources.of(context)))

    async def Login(self, request: pb.LoginRequest, context: object) -> pb.LoginResponse:
        source = sources.of(context)
        await self._sources.admit(source)
        address = addresses.lenient(request.email)
        with self._passwords.place():
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                attempt = await logins.reserve(tx, address, source, self._settings)
            matched, new_hash = await self._compare(attempt, request.password)
        async with self._db.begin(tenant=attempt.tenant_id) as tx:
            answer = await logins.end(
                tx,
                request,
                attempt,
                matched=matched,
                new_hash=new_hash,
                settings=self._settings,
                minting=self._minting,
            )
        if answer is None:
            raise logins.LoginFailed
        return answer

    async def Refresh(self, request: pb.RefreshRequest, context: object) -> pb.RefreshResponse:
        given = self._minting.refresh.parse(request.refresh_token)
        if given is None:
            raise sessions.SessionInvalid
        async with self._db.begin(tenant=given.tenant_id) as tx:
            answer = await sessions.refresh(tx, given, self._settings, self._minting)
            if answer is None:
                await sessions.revoke_reused(tx, given, self._settings, sources.of(context))
        if answer is None:
            raise sessions.SessionInvalid
        return answer

    async def Logout(self, request: pb.LogoutRequest, context: object) -> pb.LogoutResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, _: sessions.end(tx, sources.of(context)))

    async def GetSigningKeys(self, request: pb.GetSigningKeysRequest, context: object) -> pb.GetSigningKeysResponse:
        answer = pb.GetSigningKeysResponse(issuer=self._settings.issuer, audience=self._settings.audience)
        for key in await self._keys.published():
            found = answer.keys.add(key_id=key.key_id, public_key=key.public_key)
            found.not_before.FromMicroseconds(round(key.not_before * 1_000_000))
            found.not_after.FromMicroseconds(round(key.not_after * 1_000_000))
        return answer

    async def _compare(self, attempt: logins.Attempt, password: str) -> tuple[bool, str | None]:
        """Say whether the password matches, with a new hash where the stored one was made with other parameters."""
        if not attempt.admitted:
            await self._passwords.pretend()
            return False, None
        stored = attempt.password_hash
        matched = await self._passwords.matches(stored, password)
        if matched and stored is not None and self._passwords.outdated(stored):
            return True, await self._passwords.hash(password)
        return matched, None
