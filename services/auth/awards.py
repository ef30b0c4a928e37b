"""Awards: a member gets a badge, from an admin or agent, or from a member who passes on their own.

One award at a time for each recipient (what is given once is not given twice) and for each parent (no share is used
twice).
"""

from sqlalchemy import func, select

from services.auth import badge_types, badges, members
from services.kit import calls, canonical, faults, outbox
from services.kit.db import Row, Statement, Transaction, param
from triptych.auth.v1 import badge_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

LARGEST_METADATA = 4 * 1024
"""Bytes as JSON."""
_table = badges.table
_of_person = (_table.c.user_id == param("user_id")) & (_table.c.badge_type == param("badge_type"))
_live = _table.c.revoke_time.is_(None)
_lost = Statement(select(_table.c.id).where(_of_person, ~_live).limit(1))
_parent = Statement(select(_table.c.id, _table.c.depth).where(_of_person, _live).with_for_update(key_share=True))
_shared = Statement(select(func.count().label("shares")).where(_table.c.parent_id == param("parent_id"), _live))


class BadgeNotShareable(faults.FailedPrecondition):
    """The badge cannot be passed on like this."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the badge cannot be passed on: {problem}", problem=problem)


async def create(tx: Transaction, request: pb.AwardBadgeRequest) -> pb.AwardBadgeResponse:
    """Award a badge."""
    caller = calls.caller()
    if not request.from_parent and caller.kind == "user" and caller.role < Role.ROLE_ADMIN:
        raise faults.CallerNotPermitted("only an admin or agent awards; pass on your own", permission="badges.award")
    metadata = canonical.document("metadata", request.metadata, LARGEST_METADATA)
    badge_type = await badge_types.find(tx, request.badge_type)
    await members.lock(tx, request.user_id)
    if badge_type["once"] and await tx.one(_lost, user_id=request.user_id, badge_type=request.badge_type) is not None:
        raise BadgeNotShareable("it is given once only, and this member has had it")
    parent = await _share(tx, badge_type, request.user_id) if request.from_parent else None
    badge = badges.wire(await badges.store(tx, request, parent, by=caller.id, metadata=metadata))
    await outbox.record(tx, f"badge:{badge.id}", badge)
    return pb.AwardBadgeResponse(badge=badge)


async def _share(tx: Transaction, badge_type: Row, recipient: str) -> Row:
    """Give the caller's badge when it may be passed on once more, locked until the transaction ends."""
    caller = calls.caller()
    if recipient == caller.id:
        raise BadgeNotShareable("nobody passes one on to themselves")
    if not badge_type["shares"]:
        raise BadgeNotShareable("badges of this type are not passed on")
    await badges.join(tx, badge_type["slug"])
    parent = await tx.one(_parent, user_id=caller.id, badge_type=badge_type["slug"])
    if parent is None:
        raise BadgeNotShareable("the caller has none")
    if parent["depth"] >= badges.DEEPEST:
        raise BadgeNotShareable("the line is as long as it may be")
    if (await tx.only(_shared, parent_id=parent["id"]))["shares"] >= badge_type["shares"]:
        raise BadgeNotShareable("all shares are in use")
    return parent
