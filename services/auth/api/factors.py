"""The RPCs of FactorService."""

from services.auth import passkeys, recoveries, sources, totp
from services.auth.ceremonies import PasskeyInvalid, RelyingParty
from services.auth.enrollments import Enrollments
from services.auth.letters import Letters
from services.kit import calls, requests
from services.kit.db import Database
from triptych.auth.v1 import factor_service_pb2 as pb, factor_service_pb2_grpc


class Factors(factor_service_pb2_grpc.FactorServiceServicer):
    """Second factors of the caller."""

    def __init__(self, *, db: Database, enrollments: Enrollments, party: RelyingParty, letters: Letters) -> None:
        self._db = db
        self._enrollments = enrollments
        self._party = party
        self._letters = letters

    async def GetFactors(self, request: pb.GetFactorsRequest, context: object) -> pb.GetFactorsResponse:
        caller = calls.caller().id
        async with self._db.begin() as tx:
            factors = await totp.shown(tx, caller)
            factors.recovery_codes_left = await recoveries.left(tx, caller)
            factors.passkeys.extend(await passkeys.shown(tx, caller))
        return pb.GetFactorsResponse(factors=factors)

    async def EnrollTotp(self, request: pb.EnrollTotpRequest, context: object) -> pb.EnrollTotpResponse:
        return await self._enrollments.begin(request, sources.of(context))

    async def ConfirmTotp(self, request: pb.ConfirmTotpRequest, context: object) -> pb.ConfirmTotpResponse:
        return await self._enrollments.confirm(request, sources.of(context))

    async def DisableTotp(self, request: pb.DisableTotpRequest, context: object) -> pb.DisableTotpResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, _: totp.disable(tx, sources.of(context), self._letters))

    async def RegenerateRecoveryCodes(
        self, request: pb.RegenerateRecoveryCodesRequest, context: object
    ) -> pb.RegenerateRecoveryCodesResponse:
        async with self._db.begin() as tx:
            return await requests.once(
                tx, request, lambda tx, _: recoveries.regenerate(tx, sources.of(context), self._letters)
            )

    async def BeginPasskeyRegistration(
        self, request: pb.BeginPasskeyRegistrationRequest, context: object
    ) -> pb.BeginPasskeyRegistrationResponse:
        self._party.check_on()
        async with self._db.begin() as tx:
            return await requests.once(tx, request, lambda tx, _: passkeys.begin(tx, self._party))

    async def FinishPasskeyRegistration(
        self, request: pb.FinishPasskeyRegistrationRequest, context: object
    ) -> pb.FinishPasskeyRegistrationResponse:
        self._party.check_on()
        source = sources.of(context)
        async with self._db.begin() as tx:
            answer = await passkeys.answer(tx, request, self._party, source, self._letters)
        if answer is None:
            raise PasskeyInvalid
        return answer

    async def DeletePasskey(self, request: pb.DeletePasskeyRequest, context: object) -> pb.DeletePasskeyResponse:
        async with self._db.begin() as tx:
            return await requests.once(
                tx, request, lambda tx, request: passkeys.remove(tx, request, sources.of(context), self._letters)
            )
