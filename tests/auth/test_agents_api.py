"""AgentService and AgentCredentialService over the wire: who an agent is, what its secret gives, and when it ends."""

import asyncio
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from services.auth import credentials
from services.kit import clock, faults
from services.kit.clients import interceptors
from tests.auth.people import People, Somebody
from tests.auth.tokens import over
from triptych.auth.v1 import (
    agent_credential_service_pb2 as credential_pb,
    agent_service_pb2 as pb,
    member_service_pb2 as member_pb,
)
from triptych.auth.v1.agent_credential_pb2 import AgentCredential
from triptych.auth.v1.agent_credential_service_pb2_grpc import AgentCredentialServiceStub
from triptych.auth.v1.agent_pb2 import Agent, AgentLevel, AgentStatus
from triptych.auth.v1.agent_service_pb2_grpc import AgentServiceStub
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.common.v1.role_pb2 import Role

SCOPES = ["agents.get", "members.get"]
Stub = TypeVar("Stub")


@dataclass(frozen=True)
class Robot:
    """An agent, who made it, and its first secret."""

    owner: Somebody
    agent: Agent
    credential: AgentCredential
    secret: str

    async def token(self, *scopes: str) -> credential_pb.ExchangeAgentCredentialResponse:
        """Exchange the secret."""
        return await exchange(self.owner.people, self.secret, *scopes)

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub], token: str) -> Stub:
        """Give a stub that calls with a token."""
        return kind(self.owner.people.suite.channel(kind, (("authorization", f"Bearer {token}"),)))


async def exchange(people: People, secret: str, *scopes: str) -> credential_pb.ExchangeAgentCredentialResponse:
    request = credential_pb.ExchangeAgentCredentialRequest(secret=secret, scopes=scopes)
    answer: credential_pb.ExchangeAgentCredentialResponse = await people.suite.anonymous(
        AgentCredentialServiceStub
    ).ExchangeAgentCredential(request)
    return answer


async def make(owner: Somebody, *scopes: str, **fields: Any) -> Agent:
    given = Agent(
        display_name=f"robot {uuid.uuid4().hex[:8]}",
        level=AgentLevel.AGENT_LEVEL_PROJECT,
        scopes=scopes or SCOPES,
        **fields,
    )
    return (await owner.stub(AgentServiceStub).CreateAgent(pb.CreateAgentRequest(agent=given))).agent


async def issue(owner: Somebody, agent: Agent, **fields: Any) -> credential_pb.CreateAgentCredentialResponse:
    given = AgentCredential(agent_id=agent.id, **fields)
    request = credential_pb.CreateAgentCredentialRequest(agent_credential=given)
    return await owner.stub(AgentCredentialServiceStub).CreateAgentCredential(request)


async def set_status(owner: Somebody, agent: Agent, status: "AgentStatus.ValueType") -> Agent:
    request = pb.SetAgentStatusRequest(agent_id=agent.id, status=status, reason="a test")
    return (await owner.stub(AgentServiceStub).SetAgentStatus(request)).agent


@pytest.fixture
async def robot(admin: Somebody) -> Robot:
    agent = await make(admin)
    answer = await issue(admin, agent, display_name="first")
    return Robot(admin, agent, answer.agent_credential, answer.secret)


async def test_an_agent_gets_a_short_token_that_names_tenant_agent_and_scopes(robot: Robot) -> None:
    answer = await robot.token()
    assert (answer.agent_id, answer.tenant_id) == (robot.agent.id, robot.owner.tenant_id)
    assert list(answer.scopes) == SCOPES
    assert 0 < answer.access_expire_time.seconds - time.time() <= 601
    itself = await robot.stub(AgentServiceStub, answer.access_token).GetAgent(pb.GetAgentRequest())
    assert itself.agent == robot.agent


async def test_a_token_has_no_more_scopes_than_were_asked_for(robot: Robot) -> None:
    answer = await robot.token("agents.get")
    assert list(answer.scopes) == ["agents.get"]
    with pytest.raises(faults.PermissionDenied) as caught:
        await robot.stub(MemberServiceStub, answer.access_token).GetMember(
            member_pb.GetMemberRequest(user_id=robot.owner.id)
        )
    assert caught.value.reason == "CALLER_NOT_PERMITTED"
    with pytest.raises(faults.InvalidArgument) as unknown:
        await robot.token("projects.create")
    assert unknown.value.reason == "SCOPE_UNKNOWN"


async def test_attack_44_a_wrong_scope_is_permission_denied(robot: Robot) -> None:
    token = (await robot.token()).access_token
    with pytest.raises(faults.PermissionDenied):
        await robot.stub(MemberServiceStub, token).ListMembers(member_pb.ListMembersRequest())


async def test_an_agent_reads_itself_and_no_other(robot: Robot) -> None:
    other = await make(robot.owner)
    agents = robot.stub(AgentServiceStub, (await robot.token()).access_token)
    with pytest.raises(faults.PermissionDenied):
        await agents.GetAgent(pb.GetAgentRequest(agent_id=other.id))
    with pytest.raises(faults.PermissionDenied):
        await agents.ListAgents(pb.ListAgentsRequest())


async def test_attack_44_a_bad_checksum_asks_no_database(robot: Robot) -> None:
    broken = robot.secret[:-1] + ("0" if robot.secret[-1] != "0" else "1")
    assert credentials.parse(broken) is None
    with pytest.raises(faults.Unauthenticated) as caught:
        await exchange(robot.owner.people, broken)
    assert caught.value.reason == "CREDENTIAL_INVALID"


async def test_a_secret_with_a_good_checksum_that_nobody_has_is_refused(robot: Robot) -> None:
    stem = robot.secret.rpartition("_")[0][:-3] + "AAA"
    forged = f"{stem}_{zlib.crc32(stem.encode()):08x}"
    assert credentials.parse(forged) is not None
    with pytest.raises(faults.Unauthenticated):
        await exchange(robot.owner.people, forged)
    other = f"tra_{uuid.uuid4().hex}{robot.secret.rpartition('_')[0][36:]}"  # the same secret under another tenant
    moved = f"{other}_{zlib.crc32(other.encode()):08x}"
    with pytest.raises(faults.Unauthenticated):
        await exchange(robot.owner.people, moved)


async def test_attack_44_rotation_leaves_the_old_key_good_inside_the_overlap_and_not_after(robot: Robot) -> None:
    stub = robot.owner.stub(AgentCredentialServiceStub)
    request = credential_pb.RotateAgentCredentialRequest(credential_id=robot.credential.id)
    rotated = await stub.RotateAgentCredential(request)
    assert rotated.replaced.replaced_by == rotated.agent_credential.id
    overlap = rotated.replaced.revoke_time.ToDatetime() - rotated.agent_credential.create_time.ToDatetime()
    assert timedelta(hours=23, minutes=59) < overlap <= timedelta(hours=24)
    assert rotated.agent_credential.display_name == "first"
    await robot.token()
    await exchange(robot.owner.people, rotated.secret)
    async with robot.owner.people.database() as database:
        await database.execute(
            "UPDATE agent_credentials SET revoke_time = now() - interval '1 second' WHERE id = $1", robot.credential.id
        )
    with pytest.raises(faults.Unauthenticated):
        await robot.token()
    await exchange(robot.owner.people, rotated.secret)
    with pytest.raises(faults.FailedPrecondition) as ended:
        await stub.RotateAgentCredential(request)
    assert ended.value.reason == "CREDENTIAL_ENDED"


async def test_a_third_credential_is_one_too_many_even_when_twenty_ask_at_once(admin: Somebody) -> None:
    agent = await make(admin)
    answers = await asyncio.gather(*(issue(admin, agent) for _ in range(20)), return_exceptions=True)
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(made) == 2
    assert {fault.reason for fault in answers if isinstance(fault, faults.Fault)} == {"CREDENTIAL_LIMIT"}
    stub = admin.stub(AgentCredentialServiceStub)
    with pytest.raises(faults.FailedPrecondition) as limit:
        await stub.RotateAgentCredential(
            credential_pb.RotateAgentCredentialRequest(credential_id=made[0].agent_credential.id)
        )
    assert limit.value.reason == "CREDENTIAL_LIMIT"


async def test_attack_44_a_revoked_credential_gives_no_token_and_its_tokens_end_everywhere(robot: Robot) -> None:
    token = (await robot.token()).access_token
    agents = robot.stub(AgentServiceStub, token)
    await agents.GetAgent(pb.GetAgentRequest())
    stub = robot.owner.stub(AgentCredentialServiceStub)
    request = credential_pb.RevokeAgentCredentialRequest(credential_id=robot.credential.id)
    ended = (await stub.RevokeAgentCredential(request)).agent_credential
    assert (await stub.RevokeAgentCredential(request)).agent_credential == ended
    with pytest.raises(faults.Unauthenticated):
        await robot.token()
    assert await over(lambda: agents.GetAgent(pb.GetAgentRequest())) == "TOKEN_INVALID"


async def test_an_expired_credential_gives_no_token(robot: Robot) -> None:
    async with robot.owner.people.database() as database:
        await database.execute(
            "UPDATE agent_credentials SET expire_time = now() - interval '1 ms' WHERE id = $1", robot.credential.id
        )
    with pytest.raises(faults.Unauthenticated):
        await robot.token()
    stub = robot.owner.stub(AgentCredentialServiceStub)
    uses = (
        await stub.ListAgentCredentialUses(
            credential_pb.ListAgentCredentialUsesRequest(credential_id=robot.credential.id)
        )
    ).uses
    assert [(use.success, use.problem) for use in uses] == [(False, "expired")]


async def test_a_token_does_not_outlive_its_credential(robot: Robot) -> None:
    async with robot.owner.people.database() as database:
        await database.execute(
            "UPDATE agent_credentials SET expire_time = now() + interval '60 s' WHERE id = $1", robot.credential.id
        )
    assert (await robot.token()).access_expire_time.seconds - time.time() <= 61


@pytest.mark.parametrize("status", [AgentStatus.AGENT_STATUS_INACTIVE, AgentStatus.AGENT_STATUS_TERMINATED])
async def test_go_2025_4137_a_deactivated_agent_does_not_authenticate(
    robot: Robot, status: "AgentStatus.ValueType"
) -> None:
    agents = robot.stub(AgentServiceStub, (await robot.token()).access_token)
    await set_status(robot.owner, robot.agent, status)
    with pytest.raises(faults.Unauthenticated) as caught:
        await robot.token()
    assert caught.value.reason == "CREDENTIAL_INVALID"
    assert await over(lambda: agents.GetAgent(pb.GetAgentRequest())) == "TOKEN_INVALID"


async def test_an_agent_on_probation_acts_and_a_terminated_one_never_again(robot: Robot) -> None:
    await set_status(robot.owner, robot.agent, AgentStatus.AGENT_STATUS_PROBATION)
    await robot.token()
    await set_status(robot.owner, robot.agent, AgentStatus.AGENT_STATUS_INACTIVE)
    await set_status(robot.owner, robot.agent, AgentStatus.AGENT_STATUS_ACTIVE)
    await robot.token()
    await set_status(robot.owner, robot.agent, AgentStatus.AGENT_STATUS_TERMINATED)
    for call in (
        set_status(robot.owner, robot.agent, AgentStatus.AGENT_STATUS_ACTIVE),
        issue(robot.owner, robot.agent),
    ):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "AGENT_TERMINATED"


async def test_scopes_that_an_agent_loses_end_its_tokens_and_leave_its_credentials(robot: Robot) -> None:
    agents = robot.stub(AgentServiceStub, (await robot.token()).access_token)
    change = Agent(id=robot.agent.id, scopes=["agents.get"], etag=robot.agent.etag)
    update = pb.UpdateAgentRequest(agent=change, update_mask=FieldMask(paths=["scopes"]))
    await robot.owner.stub(AgentServiceStub).UpdateAgent(update)
    assert await over(lambda: agents.GetAgent(pb.GetAgentRequest())) == "TOKEN_INVALID"
    assert list((await robot.token()).scopes) == ["agents.get"]


async def test_scopes_are_those_of_methods_that_agents_may_call(admin: Somebody) -> None:
    for scope in ("projects.craete", "users.deactivate"):
        with pytest.raises(faults.InvalidArgument) as caught:
            await make(admin, scope)
        assert caught.value.reason == "SCOPE_UNKNOWN"
    agent = await make(admin, "agents.get")
    with pytest.raises(faults.InvalidArgument):
        await issue(admin, agent, scopes=["members.get"])


async def test_names_are_unique_among_the_living(admin: Somebody) -> None:
    first = await make(admin)
    again = Agent(display_name=first.display_name.upper(), level=AgentLevel.AGENT_LEVEL_ORGANIZATION)
    stub = admin.stub(AgentServiceStub)
    with pytest.raises(faults.AlreadyExists) as caught:
        await stub.CreateAgent(pb.CreateAgentRequest(agent=again))
    assert caught.value.reason == "AGENT_NAME_TAKEN"
    await set_status(admin, first, AgentStatus.AGENT_STATUS_TERMINATED)
    await stub.CreateAgent(pb.CreateAgentRequest(agent=again))
    found = (await stub.ListAgents(pb.ListAgentsRequest(query=first.display_name))).agents
    assert [agent.level for agent in found] == [AgentLevel.AGENT_LEVEL_ORGANIZATION]
    terminated = pb.ListAgentsRequest(status=AgentStatus.AGENT_STATUS_TERMINATED)
    assert [agent.id for agent in (await stub.ListAgents(terminated)).agents] == [first.id]


async def test_a_changed_agent_has_another_etag(admin: Somebody) -> None:
    agent = await make(admin)
    stub = admin.stub(AgentServiceStub)
    change = Agent(id=agent.id, description="watches", etag=agent.etag)
    changed = (await stub.UpdateAgent(pb.UpdateAgentRequest(agent=change))).agent
    assert (changed.description, changed.scopes) == ("watches", agent.scopes)
    with pytest.raises(faults.Aborted):
        await stub.UpdateAgent(pb.UpdateAgentRequest(agent=change))
    with pytest.raises(faults.InvalidArgument) as mask:
        await stub.UpdateAgent(pb.UpdateAgentRequest(agent=changed, update_mask=FieldMask(paths=["status"])))
    assert mask.value.reason == "UPDATE_MASK_INVALID"


async def test_lists_page(admin: Somebody) -> None:
    made = [(await make(admin)).id for _ in range(3)]
    stub = admin.stub(AgentServiceStub)
    first = await stub.ListAgents(pb.ListAgentsRequest(page_size=2))
    second = await stub.ListAgents(pb.ListAgentsRequest(page_size=2, page_token=first.next_page_token))
    assert [agent.id for agent in [*first.agents, *second.agents]] == made[::-1]
    assert second.next_page_token == ""


async def test_a_repeated_create_gives_no_second_secret(admin: Somebody) -> None:
    agent = await make(admin)
    request = credential_pb.CreateAgentCredentialRequest(
        agent_credential=AgentCredential(agent_id=agent.id), request_id=str(uuid.uuid4())
    )
    stub = admin.stub(AgentCredentialServiceStub)
    first, again = await stub.CreateAgentCredential(request), await stub.CreateAgentCredential(request)
    assert again.agent_credential == first.agent_credential
    assert (bool(first.secret), again.secret) == (True, "")
    assert first.secret.startswith("tra_")
    assert first.agent_credential.prefix.removeprefix("tra_") in first.secret


async def test_the_end_of_a_credential_is_ahead_by_ninety_days_at_most(admin: Somebody) -> None:
    agent = await make(admin)
    for days in (-1, 91):
        end = Timestamp()
        end.FromDatetime(clock.now() + timedelta(days=days))
        with pytest.raises(faults.InvalidArgument) as caught:
            await issue(admin, agent, expire_time=end)
        assert "agent_credential.expire_time" in caught.value.violations


async def test_uses_are_listed_and_last_use_is_known(robot: Robot) -> None:
    await robot.token()
    await robot.token("agents.get")
    stub = robot.owner.stub(AgentCredentialServiceStub)
    request = credential_pb.ListAgentCredentialUsesRequest(credential_id=robot.credential.id)
    uses = (await stub.ListAgentCredentialUses(request)).uses
    assert [(use.success, use.ip_address) for use in uses] == [(True, "127.0.0.1")] * 2
    found = await stub.ListAgentCredentials(credential_pb.ListAgentCredentialsRequest(agent_id=robot.agent.id))
    assert found.agent_credentials[0].HasField("last_use_time")
    assert len(found.agent_credentials) == 1


async def test_attack_40_another_tenants_agent_and_credential_are_not_found(people: People, robot: Robot) -> None:
    stranger = await people.admin()
    agents, keys = stranger.stub(AgentServiceStub), stranger.stub(AgentCredentialServiceStub)
    for agent_id in (robot.agent.id, str(uuid.uuid4())):
        for call in (
            agents.GetAgent(pb.GetAgentRequest(agent_id=agent_id)),
            agents.UpdateAgent(pb.UpdateAgentRequest(agent=Agent(id=agent_id, description="mine"))),
            keys.ListAgentCredentials(credential_pb.ListAgentCredentialsRequest(agent_id=agent_id)),
            keys.CreateAgentCredential(
                credential_pb.CreateAgentCredentialRequest(agent_credential=AgentCredential(agent_id=agent_id))
            ),
        ):
            with pytest.raises(faults.NotFound) as caught:
                await call
            assert caught.value.reason == "AGENT_NOT_FOUND"
    for credential_id in (robot.credential.id, str(uuid.uuid4())):
        for attempt in (
            keys.RotateAgentCredential(credential_pb.RotateAgentCredentialRequest(credential_id=credential_id)),
            keys.RevokeAgentCredential(credential_pb.RevokeAgentCredentialRequest(credential_id=credential_id)),
            keys.ListAgentCredentialUses(credential_pb.ListAgentCredentialUsesRequest(credential_id=credential_id)),
        ):
            with pytest.raises(faults.NotFound) as missing:
                await attempt
            assert missing.value.reason == "CREDENTIAL_NOT_FOUND"
    await robot.token()


async def test_only_admins_make_agents_and_credentials(people: People, robot: Robot) -> None:
    user = await people.join(await robot.owner.invite(Role.ROLE_USER))
    assert (
        await user.stub(AgentServiceStub).GetAgent(pb.GetAgentRequest(agent_id=robot.agent.id))
    ).agent == robot.agent
    keys = user.stub(AgentCredentialServiceStub)
    for call in (
        user.stub(AgentServiceStub).CreateAgent(pb.CreateAgentRequest(agent=robot.agent)),
        keys.ListAgentCredentials(credential_pb.ListAgentCredentialsRequest(agent_id=robot.agent.id)),
        keys.RevokeAgentCredential(credential_pb.RevokeAgentCredentialRequest(credential_id=robot.credential.id)),
    ):
        with pytest.raises(faults.PermissionDenied):
            await call


async def test_bad_secrets_are_limited_by_source_and_good_ones_are_not(robot: Robot) -> None:
    suite = robot.owner.people.suite
    strict = await suite.launch("auth", source_bad_secrets=2)
    forged = credentials.begin(robot.owner.tenant_id).text
    reasons = set()
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{strict.plaintext_port}", interceptors=interceptors("auth", lambda details, _: details)
        ) as channel:
            stub = AgentCredentialServiceStub(channel)
            for _ in range(6):  # two minutes at most are touched
                with pytest.raises((faults.Unauthenticated, faults.ResourceExhausted)) as caught:
                    await stub.ExchangeAgentCredential(credential_pb.ExchangeAgentCredentialRequest(secret=forged))
                reasons.add(caught.value.reason)
            await stub.ExchangeAgentCredential(credential_pb.ExchangeAgentCredentialRequest(secret=robot.secret))
    finally:
        await strict.stop()
    assert "LOGIN_RATE" in reasons


async def test_a_secret_that_is_over_cannot_fill_the_log(robot: Robot) -> None:
    await robot.owner.stub(AgentCredentialServiceStub).RevokeAgentCredential(
        credential_pb.RevokeAgentCredentialRequest(credential_id=robot.credential.id)
    )
    strict = await robot.owner.people.suite.launch("auth", source_bad_secrets=0)
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{strict.plaintext_port}", interceptors=interceptors("auth", lambda details, _: details)
        ) as channel:
            with pytest.raises(faults.ResourceExhausted):
                await AgentCredentialServiceStub(channel).ExchangeAgentCredential(
                    credential_pb.ExchangeAgentCredentialRequest(secret=robot.secret)
                )
    finally:
        await strict.stop()
    request = credential_pb.ListAgentCredentialUsesRequest(credential_id=robot.credential.id)
    uses = await robot.owner.stub(AgentCredentialServiceStub).ListAgentCredentialUses(request)
    assert not uses.uses
