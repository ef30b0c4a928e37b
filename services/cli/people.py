"""`triptych users`, `members` and `invitations`: who belongs to the tenant, and who may come."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import callers
from services.cli.callers import json_option, limit_option
from services.cli.names import Person
from services.cli.numbers import Whole
from services.kit.words import Words
from triptych.auth.v1 import (
    invitation_service_pb2 as invitation_pb,
    member_service_pb2 as member_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.invitation_pb2 import Invitation
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.member_pb2 import Member
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role

ROLES = ("guest", "viewer", "user", "admin")
_role = click.Choice(ROLES)
reason_option = click.option("--reason", default="", help="Why; it goes into the audit log.")


def role(name: str | None) -> "Role.ValueType":
    """Give the role of this name; none: unspecified."""
    return Words(Role).number(name)  # type: ignore[no-any-return]


@click.group()
def users() -> None:
    """People of the tenant, and their accounts."""


@users.command("list")
@click.option("--query", default="", help="Part of a name or address.")
@click.option("--role", "role_name", type=_role, help="Only this role.")
@click.option("--active/--inactive", default=None, help="Only those who may log in, or only those who may not.")
@limit_option
@json_option
def list_users(query: str, role_name: str | None, active: bool | None, limit: int, as_json: bool) -> None:
    """List people, newest first."""
    request = user_pb.ListUsersRequest(query=query, role=role(role_name), active=active)
    found = callers.listed(UserServiceStub, "ListUsers", request, limit)
    callers.table(
        found, ("id", "email", "display_name", "role", "verified", "active", "last_login_time"), as_json=as_json
    )


@users.command("show")
@click.argument("user_id", type=Person(), required=False, default="")
@json_option
def show_user(user_id: str, as_json: bool) -> None:
    """Show one person; without an id yourself."""
    callers.show(
        callers.call(UserServiceStub, "GetUser", user_pb.GetUserRequest(user_id=user_id)).user, as_json=as_json
    )


def _account(verb: str, help_text: str) -> None:
    @users.command(verb, help=help_text)
    @click.argument("user_id", type=Person())
    @reason_option
    @json_option
    def command(user_id: str, reason: str, as_json: bool) -> None:
        method = f"{verb.capitalize()}User"
        request = getattr(user_pb, f"{method}Request")(user_id=user_id, reason=reason)
        callers.show(callers.call(UserServiceStub, method, request).user, as_json=as_json)


_account("deactivate", "Keep a person from logging in, and end their sessions.")
_account("reactivate", "Let a person log in again.")
_account("unlock", "End the lock of a person's address and second factor.")


@users.command("delete")
@click.argument("user_id", type=Person(), required=False, default="")
@reason_option
@click.confirmation_option(prompt="It cannot be undone. Delete the account?")
def delete_user(user_id: str, reason: str) -> None:
    """Delete an account; without an id your own (needs `triptych reauthenticate`)."""
    callers.call(UserServiceStub, "DeleteUser", user_pb.DeleteUserRequest(user_id=user_id, reason=reason))
    click.echo("deleted")


@click.group()
def members() -> None:
    """Members of the tenant: roles, tiers, scores."""


@members.command("list")
@click.option("--role", "role_name", type=_role, help="Only this role.")
@click.option("--query", default="", help="Part of a name.")
@click.option("--by-rank", is_flag=True, help="Best rank first; else newest first.")
@limit_option
@json_option
def list_members(role_name: str | None, query: str, by_rank: bool, limit: int, as_json: bool) -> None:
    """List members."""
    order = member_pb.MEMBER_ORDER_RANK if by_rank else member_pb.MEMBER_ORDER_UNSPECIFIED
    request = member_pb.ListMembersRequest(role=role(role_name), query=query, order=order)
    found = callers.listed(MemberServiceStub, "ListMembers", request, limit)
    columns = ("user_id", "display_name", "role", "tier", "rank", "activity_score", "active", "last_seen_time")
    callers.table(found, columns, as_json=as_json)


@members.command("set")
@click.argument("user_id", type=Person())
@click.option("--role", "role_name", type=_role, help="New role.")
@click.option("--tier", type=Whole(0, 8), help="New tier, 0 to 8.")
@click.option("--rank", type=Whole(0), help="New rank; 0: none.")
@json_option
def set_member(user_id: str, as_json: bool, **given: Any) -> None:
    """Change a member's role, tier or rank."""
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise click.UsageError("say what to change: --role, --tier or --rank")
    if "role_name" in wanted:
        wanted["role"] = role(wanted.pop("role_name"))
    request = member_pb.UpdateMemberRequest(
        member=Member(user_id=user_id, **wanted), update_mask=FieldMask(paths=list(wanted))
    )
    callers.show(callers.call(MemberServiceStub, "UpdateMember", request).member, as_json=as_json)


@members.command("remove")
@click.argument("user_id", type=Person())
@reason_option
def remove_member(user_id: str, reason: str) -> None:
    """Take somebody out of the tenant; their account stays."""
    callers.call(MemberServiceStub, "RemoveMember", member_pb.RemoveMemberRequest(user_id=user_id, reason=reason))
    click.echo("removed")


@click.group()
def invitations() -> None:
    """Ways in for new people."""


@invitations.command("create")
@click.option("--role", "role_name", type=_role, default="user", show_default=True, help="Role of those who use it.")
@click.option("--uses", type=Whole(1, 1000), default=1, show_default=True, help="How many may use it.")
@click.option("--days", type=Whole(1, 30), default=7, show_default=True, help="How long it is good.")
def create_invitation(role_name: str, uses: int, days: int) -> None:
    """Make an invitation and print its code, once."""
    given = Invitation(role=role(role_name), max_uses=uses, expire_time=callers.ahead(days))
    request = invitation_pb.CreateInvitationRequest(invitation=given)
    click.echo(callers.call(InvitationServiceStub, "CreateInvitation", request).code)


@invitations.command("list")
@limit_option
@json_option
def list_invitations(limit: int, as_json: bool) -> None:
    """List invitations, newest first."""
    found = callers.listed(InvitationServiceStub, "ListInvitations", invitation_pb.ListInvitationsRequest(), limit)
    callers.table(found, ("id", "role", "uses", "max_uses", "expire_time", "revoke_time"), as_json=as_json)


@invitations.command("revoke")
@click.argument("invitation_id")
def revoke_invitation(invitation_id: str) -> None:
    """End an invitation."""
    request = invitation_pb.RevokeInvitationRequest(invitation_id=invitation_id)
    callers.call(InvitationServiceStub, "RevokeInvitation", request)
    click.echo("revoked")


@invitations.command("accept")
@click.argument("code")
@json_option
def accept_invitation(code: str, as_json: bool) -> None:
    """Join another tenant with an invitation of its."""
    request = invitation_pb.AcceptInvitationRequest(code=code)
    callers.show(callers.call(InvitationServiceStub, "AcceptInvitation", request).membership, as_json=as_json)
