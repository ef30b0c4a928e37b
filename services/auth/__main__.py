"""Wiring of the auth service; `bootstrap` as its first argument invites a tenant's first admin instead."""

import sys
from typing import cast

from services.auth import attempts, bootstrap, mail
from services.auth.api.auth import Auth
from services.auth.api.invitations import Invitations
from services.auth.api.tenants import Tenants
from services.auth.api.users import Users
from services.auth.keys import SEAL, Keys
from services.auth.mail import Letters
from services.auth.passwords import Passwords
from services.auth.settings import AuthSettings
from services.auth.sources import Sources
from services.auth.tokens import Minting, RefreshTokens
from services.kit import valkey
from services.kit.server import Runtime, serve
from triptych.auth.v1 import (
    auth_service_pb2_grpc as auth_grpc,
    invitation_service_pb2_grpc as invitation_grpc,
    tenant_service_pb2_grpc as tenant_grpc,
    user_service_pb2_grpc as user_grpc,
)

SETTINGS = AuthSettings


async def wire(runtime: Runtime) -> None:
    """Open what the service needs and add its servicers."""
    settings = cast("AuthSettings", runtime.settings)
    await runtime.open()
    keys = Keys(db=runtime.db, vault=runtime.vault, days=settings.key_days)
    await keys.load()
    runtime.trust(keys.published)
    runtime.background(keys.keep())
    runtime.background(attempts.forget(runtime.db))
    counters = valkey.connect(settings)
    runtime.on_close(counters.aclose)
    passwords = Passwords(settings)
    runtime.on_close(passwords.close)
    letters = Letters(sender=mail.sender(settings), from_address=settings.mail_from, public_url=settings.public_url)
    runtime.on_close(letters.close)
    refresh = RefreshTokens(await runtime.vault.derive(SEAL, "refresh tokens"))
    auth = Auth(
        db=runtime.db,
        keys=keys,
        passwords=passwords,
        sources=Sources(valkey=counters, db=runtime.db, limit=settings.source_logins),
        letters=letters,
        minting=Minting(keys=keys, refresh=refresh, settings=settings),
        settings=settings,
    )
    runtime.add("triptych.auth.v1.AuthService", auth_grpc.add_AuthServiceServicer_to_server, auth)
    runtime.add(
        "triptych.auth.v1.UserService",
        user_grpc.add_UserServiceServicer_to_server,
        Users(db=runtime.db, pages=runtime.pages),
    )
    runtime.add(
        "triptych.auth.v1.TenantService",
        tenant_grpc.add_TenantServiceServicer_to_server,
        Tenants(db=runtime.db),
    )
    runtime.add(
        "triptych.auth.v1.InvitationService",
        invitation_grpc.add_InvitationServiceServicer_to_server,
        Invitations(db=runtime.db, pages=runtime.pages),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["bootstrap"]:
        bootstrap.main(sys.argv[2:])
    else:
        serve(SETTINGS, wire)
