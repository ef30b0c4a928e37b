"""Switches: from a session in one tenant a person begins one in another that they belong to.

Row-level security shows one tenant at a time, so there are two transactions, and neither tenant learns of the other.
What the first one has seen is checked again by the second: the epoch, the membership, and that the session was not
ended. The new session follows it from then on, and ends with it: a token of ten minutes is no way to one of its own.
"""

from sqlalchemy import Text, Uuid, text

from services.auth import activities, events, memberships, profiles, sessions, users
from services.auth.settings import AuthSettings
from services.auth.sources import Source
from services.auth.tenants import TenantNotFound
from services.auth.tokens import Minting
from services.auth.words import ROLES
from services.kit import calls, faults, outbox
from services.kit.db import Row, Statement, Transaction, param
from triptych.auth.v1 import auth_service_pb2 as pb

_belongs = Statement(
    text("SELECT tenant_id FROM tenants_of(:person) WHERE tenant_id = :wanted").bindparams(
        param("person", Uuid()), param("wanted", Uuid())
    )
)
# Who ends a session waits for this lock before looking for its followers (`sessions_following`).
_hold = Statement(
    text("SELECT pg_advisory_xact_lock_shared(hashtextextended('followers:' || :person, 0))").bindparams(
        param("person", Text())
    )
)


async def leave(tx: Transaction, request: pb.SwitchTenantRequest, source: Source) -> Row:
    """Give the caller's session, in the tenant of the token, when they belong to the other one as well."""
    caller = calls.caller()
    session = await sessions.current(tx)
    if request.tenant_id.lower() == str(session["tenant_id"]):
        problem = "is the tenant that you are in"
        raise faults.RequestInvalid(f"tenant_id: {problem}", violations={"tenant_id": problem}, fields="tenant_id")
    if await tx.one(_belongs, person=caller.id, wanted=request.tenant_id) is None:
        raise TenantNotFound(request.tenant_id)
    await activities.write(tx, session["id"], "switch_tenant", source)
    resource = f"session:{session['id']}"
    await events.write(tx, "auth.session.switch_tenant", resource, source=source, user_id=caller.id)
    await outbox.record(tx, resource)
    return session


async def enter(
    tx: Transaction, left: Row, source: Source, *, settings: AuthSettings, minting: Minting
) -> pb.SwitchTenantResponse:
    """Begin the session in the other tenant, whose transaction this is."""
    caller = calls.caller()
    membership = await memberships.find(tx, caller.id)
    if membership is None:
        raise TenantNotFound(tx.tenant_id)
    await tx.one(_hold, person=caller.id)
    refresh = minting.refresh.begin(tx.tenant_id)
    device = {"name": left["device_info"].get("name", ""), **activities.origin(source)}
    origin = sessions.Origin(
        "switch_tenant", epoch=left["session_epoch"], until=left["expire_time"], follows=left["id"]
    )
    session = await sessions.create(tx, caller.id, refresh, settings, device, origin=origin)
    resource = f"session:{session['id']}"
    await events.write(tx, "auth.session.create", resource, source=source, user_id=caller.id)
    await outbox.record(tx, resource, {"user_id": caller.id})
    return pb.SwitchTenantResponse(
        tokens=minting.pair(session, ROLES.number(session["role"]), refresh),
        user=users.wire(await profiles.member(tx, caller.id), membership["role"], own=True),
    )
