"""Wiring of the auth service.

`bootstrap` as its first argument invites a tenant's first admin instead; `tenants` changes what only the operator does.
"""

import sys
from typing import cast

from redis.asyncio import Redis

from services.auth import (
    agents,
    attempts,
    badge_types,
    badges,
    bootstrap,
    invitations,
    mail,
    operators,
    purges,
    revocations,
    tenants,
    verifications,
)
from services.auth.api.agent_credentials import AgentCredentials
from services.auth.api.agents import Agents
from services.auth.api.auth import Auth, Changes, Ways
from services.auth.api.badges import Badges
from services.auth.api.factors import Factors
from services.auth.api.invitations import Invitations
from services.auth.api.members import Members
from services.auth.api.revocations import Revocations
from services.auth.api.security_events import SecurityEvents
from services.auth.api.sessions import Sessions
from services.auth.api.tenants import Tenants
from services.auth.api.users import Users
from services.auth.assertions import Assertions
from services.auth.broadcasts import Broadcast
from services.auth.ceremonies import RelyingParty
from services.auth.completions import Completions
from services.auth.confirmations import Confirmations
from services.auth.enrollments import Enrollments
from services.auth.entrances import Entrances
from services.auth.keys import SEAL, Keys
from services.auth.letters import Letters
from services.auth.logins import Logins
from services.auth.moves import Moves
from services.auth.passwords import Passwords
from services.auth.replacements import Replacements
from services.auth.resets import Resets
from services.auth.settings import AuthSettings
from services.auth.sources import Sources
from services.auth.tokens import Minting, RefreshTokens
from services.auth.totp import Seals
from services.auth.verifications import Verifications
from services.kit import valkey
from services.kit.db import Database
from services.kit.server import Runtime, serve
from triptych.auth.v1 import (
    agent_credential_service_pb2_grpc as agent_credential_grpc,
    agent_service_pb2_grpc as agent_grpc,
    auth_service_pb2_grpc as auth_grpc,
    badge_service_pb2_grpc as badge_grpc,
    factor_service_pb2_grpc as factor_grpc,
    invitation_service_pb2_grpc as invitation_grpc,
    member_service_pb2_grpc as member_grpc,
    revocation_service_pb2_grpc as revocation_grpc,
    security_event_service_pb2_grpc as security_event_grpc,
    session_service_pb2_grpc as session_grpc,
    tenant_service_pb2_grpc as tenant_grpc,
    user_service_pb2_grpc as user_grpc,
)

SETTINGS = AuthSettings
CONSTRAINTS = (
    tenants.CONSTRAINTS
    | badge_types.CONSTRAINTS
    | badges.CONSTRAINTS
    | invitations.CONSTRAINTS
    | agents.CONSTRAINTS
    | verifications.CONSTRAINTS
)


async def wire(runtime: Runtime) -> None:
    """Open what the service needs and add its servicers."""
    settings = cast("AuthSettings", runtime.settings)
    await runtime.open(CONSTRAINTS)
    keys = Keys(db=runtime.db, vault=runtime.vault, days=settings.key_days)
    await keys.load()
    runtime.trust(keys.published)
    runtime.background(keys.keep())
    runtime.background(attempts.forget(runtime.db))
    counters = valkey.connect(settings)
    runtime.on_close(counters.aclose)
    runtime.background(purges.keep(runtime.db))
    broadcast = await _broadcast(runtime, counters)
    passwords = Passwords(settings)
    runtime.on_close(passwords.close)
    letters = Letters(sender=mail.sender(settings), from_address=settings.mail_from, public_url=settings.public_url)
    runtime.on_close(letters.close)
    refresh = RefreshTokens(await runtime.vault.derive(SEAL, "refresh tokens"))
    minting = Minting(keys=keys, refresh=refresh, settings=settings)
    seals = Seals(runtime.vault)
    auth = Auth(
        db=runtime.db,
        keys=keys,
        passwords=passwords,
        sources=Sources(valkey=counters, db=runtime.db, limit=settings.source_logins),
        letters=letters,
        ways=_ways(runtime.db, passwords, seals, minting, settings),
        changes=_changes(runtime.db, passwords, letters, minting, settings),
        minting=minting,
        settings=settings,
    )
    runtime.add("triptych.auth.v1.AuthService", auth_grpc.add_AuthServiceServicer_to_server, auth)
    runtime.add(
        "triptych.auth.v1.FactorService",
        factor_grpc.add_FactorServiceServicer_to_server,
        Factors(
            db=runtime.db,
            enrollments=Enrollments(db=runtime.db, seals=seals, letters=letters),
            party=_party(settings),
            letters=letters,
        ),
    )
    runtime.add(
        "triptych.auth.v1.UserService",
        user_grpc.add_UserServiceServicer_to_server,
        Users(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.TenantService",
        tenant_grpc.add_TenantServiceServicer_to_server,
        Tenants(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.MemberService",
        member_grpc.add_MemberServiceServicer_to_server,
        Members(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.BadgeService",
        badge_grpc.add_BadgeServiceServicer_to_server,
        Badges(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.InvitationService",
        invitation_grpc.add_InvitationServiceServicer_to_server,
        Invitations(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.AgentService",
        agent_grpc.add_AgentServiceServicer_to_server,
        Agents(db=runtime.db, pages=runtime.pages),
    )
    bad = Sources(valkey=counters, db=runtime.db, limit=settings.source_bad_secrets, kind="credential")
    runtime.add(
        "triptych.auth.v1.AgentCredentialService",
        agent_credential_grpc.add_AgentCredentialServiceServicer_to_server,
        AgentCredentials(db=runtime.db, pages=runtime.pages, bad=bad, minting=minting),
    )
    runtime.add(
        "triptych.auth.v1.SessionService",
        session_grpc.add_SessionServiceServicer_to_server,
        Sessions(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.SecurityEventService",
        security_event_grpc.add_SecurityEventServiceServicer_to_server,
        SecurityEvents(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.RevocationService",
        revocation_grpc.add_RevocationServiceServicer_to_server,
        Revocations(broadcast=broadcast),
    )


def _party(settings: AuthSettings) -> RelyingParty:
    return RelyingParty(settings.webauthn_rp_id, settings.passkey_origins)


def _ways(db: Database, passwords: Passwords, seals: Seals, minting: Minting, settings: AuthSettings) -> Ways:
    """Make how people show who they are."""
    entrances, party = Entrances(minting=minting, settings=settings), _party(settings)
    return Ways(
        logins=Logins(db=db, passwords=passwords, entrances=entrances, settings=settings),
        completions=Completions(db=db, seals=seals, entrances=entrances),
        assertions=Assertions(db=db, party=party, entrances=entrances),
        confirmations=Confirmations(db=db, passwords=passwords, seals=seals, settings=settings),
    )


def _changes(db: Database, passwords: Passwords, letters: Letters, minting: Minting, settings: AuthSettings) -> Changes:
    """Make what people change of how they log in."""
    entrances = Entrances(minting=minting, settings=settings)
    return Changes(
        verifications=Verifications(db=db, letters=letters),
        moves=Moves(db=db, letters=letters),
        resets=Resets(db=db, passwords=passwords, letters=letters),
        replacements=Replacements(db=db, passwords=passwords, entrances=entrances, letters=letters, settings=settings),
    )


async def _broadcast(runtime: Runtime, counters: Redis) -> Broadcast:
    """Begin to tell revocations, over a connection of its own: a flood of logins does not delay it."""
    db = await Database.connect(runtime.settings, size=1)
    runtime.on_close(db.close)
    broadcast = Broadcast(db=db, valkey=counters)
    await broadcast.load()
    runtime.db.listen(revocations.TOPIC, broadcast.wake)
    runtime.refuse(broadcast.read)
    runtime.on_drain(broadcast.end)
    for work in (broadcast.look, broadcast.tell, broadcast.hear):
        runtime.background(work())
    return broadcast


if __name__ == "__main__":
    if sys.argv[1:2] == ["bootstrap"]:
        bootstrap.main(sys.argv[2:])
    elif sys.argv[1:2] == ["tenants"]:
        operators.main(sys.argv[2:])
    else:
        serve(SETTINGS, wire)
