"""ModelService over the wire: a key that stays inside, and every cent accounted for."""

import asyncio
import uuid
from typing import Any

import pytest

from services.kit import faults
from tests.fakes.model_servers import FakeModels
from tests.patience import until
from tests.providers.models import KEY, SAID, TEXT, AddModel, asking, invoke, settled, stream
from tests.suite import Person, Suite
from triptych.common.v1.principal_pb2 import Principal, PrincipalKind
from triptych.common.v1.role_pb2 import Role
from triptych.providers.v1 import (
    model_pb2,
    quota_service_pb2 as quota_pb,
)
from triptych.providers.v1.model_service_pb2_grpc import ModelServiceStub
from triptych.providers.v1.provider_pb2 import Provider
from triptych.providers.v1.quota_pb2 import Quota
from triptych.providers.v1.quota_service_pb2_grpc import QuotaServiceStub

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_an_answer_is_charged_at_what_the_provider_counted(user: Person, model: Provider) -> None:
    answer = await invoke(user, model)
    given = answer.invocation
    assert answer.text == TEXT
    assert (given.input_tokens, given.output_tokens, given.cost_usd) == (7, 4, "0.015")  # 7 at $1, 4 at $2 a thousand
    assert (given.finish_reason, given.attempts, given.estimated) == (model_pb2.FINISH_REASON_STOP, 1, False)
    assert (given.key_source, given.model_name) == (model_pb2.KEY_SOURCE_OWN, "reviewer")
    assert await settled(user) == ("1", "0.015")


async def test_a_stream_gives_pieces_and_then_what_it_came_to(user: Person, model: Provider) -> None:
    pieces, given = await stream(user, model)
    assert ("".join(pieces), len(pieces)) == (TEXT, 4)
    assert (given.cost_usd, given.finish_reason) == ("0.015", model_pb2.FINISH_REASON_STOP)
    assert await settled(user) == ("1", "0.015")


async def test_anthropic_is_asked_in_its_own_words(user: Person, add_model: AddModel, other: FakeModels) -> None:
    model = await add_model(other)
    assert (await invoke(user, model)).text == TEXT
    assert (await stream(user, model))[0] == ["Four", " words", " come", " here."]
    assert other.requests[-1].headers["x-api-key"] == KEY


async def test_the_key_and_the_words_stay_where_they_belong(
    user: Person, model: Provider, server: FakeModels, superuser: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    await invoke(user, model, request_id=str(uuid.uuid4()))
    server.always = "broken"
    with pytest.raises(faults.Unavailable) as caught:
        await invoke(user, model)
    dump = str(caught.value) + "".join(capfd.readouterr())
    tables = await superuser.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'providers'")
    for table in tables:  # bytes are shown in hexadecimal
        rows = await superuser.fetch(f"SELECT t::text AS line FROM {table['tablename']} t")
        dump += "".join(row["line"] for row in rows)
    for secret in (KEY, SAID, TEXT):
        assert secret not in dump
        assert secret.encode().hex() not in dump


async def test_every_call_leaves_its_events(user: Person, model: Provider, superuser: Any) -> None:
    given = (await invoke(user, model)).invocation
    rows = await superuser.fetch(
        "SELECT action FROM outbox WHERE entity = $1 ORDER BY occur_time", f"reservation:{given.reservation_id}"
    )
    assert [row["action"] for row in rows] == [
        "providers.quota.reserve", "providers.quota.commit", "providers.model.invoke",
    ]  # fmt: skip
    opened = "SELECT count(*) FROM outbox WHERE action = 'providers.key.resolve' AND actor_id = $1"
    assert await superuser.fetchval(opened, user.id) == 1


async def test_a_request_id_is_charged_once_and_its_text_is_not_kept(user: Person, model: Provider) -> None:
    request_id = str(uuid.uuid4())
    first = await invoke(user, model, request_id=request_id)
    again = await invoke(user, model, request_id=request_id)
    assert (again.text, again.invocation) == ("", first.invocation)
    with pytest.raises(faults.InvalidArgument) as caught:
        await invoke(user, model, request_id=request_id, operation="vision")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await settled(user) == ("1", "0.015")


async def test_the_same_request_at_once_asks_the_provider_once(
    user: Person, model: Provider, server: FakeModels
) -> None:
    server.always = "slow"
    request_id = str(uuid.uuid4())
    first = asyncio.ensure_future(invoke(user, model, request_id=request_id))
    await until(lambda: server.requests)
    with pytest.raises(faults.Aborted) as caught:
        await invoke(user, model, request_id=request_id)
    assert caught.value.reason == "INVOCATION_RUNNING"
    server.released.set()
    assert (await invoke(user, model, request_id=request_id) if not (await first).text else await first).text == TEXT
    assert len(server.requests) == 1
    assert await settled(user) == ("1", "0.015")


async def test_over_quota_no_provider_is_asked(
    admin: Person, user: Person, model: Provider, server: FakeModels
) -> None:
    owner = Principal(kind=PrincipalKind.PRINCIPAL_KIND_USER, id=user.id)
    quota = Quota(owner=owner, daily_requests=0)
    await admin.stub(QuotaServiceStub).SetQuota(quota_pb.SetQuotaRequest(quota=quota))
    with pytest.raises(faults.ResourceExhausted) as caught:
        await invoke(user, model)
    assert (caught.value.reason, list(caught.value.violations)) == ("QUOTA_EXCEEDED", ["daily_requests"])
    assert not server.requests


async def test_others_have_no_use_of_a_model_of_the_tenant(
    suite: Suite, admin: Person, model: Provider, server: FakeModels
) -> None:
    stranger = suite.person(Role.ROLE_ADMIN)
    with pytest.raises(faults.NotFound) as caught:
        await invoke(stranger, model)
    assert caught.value.reason == "PROVIDER_NOT_FOUND"
    with pytest.raises(faults.NotFound) as keyless:
        await invoke(admin, model)  # the user's key is the user's
    assert keyless.value.reason == "KEY_NOT_FOUND"
    with pytest.raises(faults.PermissionDenied):
        await invoke(admin.colleague(Role.ROLE_VIEWER), model)
    assert not server.requests


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []}, {"max_output_tokens": -1}, {"temperature": float("nan")}, {"temperature": 2.5},
        {"operation": "Review!"}, {"stop_sequences": [""] }, {"provider_id": "x"},
        {"messages": [model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_SYSTEM, content="alone")]},
        {"messages": [model_pb2.ChatMessage(role=model_pb2.CHAT_ROLE_USER)]},
    ],
)  # fmt: skip
async def test_a_request_out_of_shape_is_refused(user: Person, model: Provider, changes: dict[str, Any]) -> None:
    with pytest.raises(faults.InvalidArgument):
        await invoke(user, model, **changes)
    assert await settled(user) == ("0", "0")


async def test_a_service_asks_with_the_key_of_whom_it_works_for(
    suite: Suite, user: Person, model: Provider, server: FakeModels
) -> None:
    stub = (await suite.service("experiments", user)).stub(ModelServiceStub)
    assert (await stub.InvokeModel(asking(model))).text == TEXT
    assert server.requests[-1].key == KEY
    assert await settled(user) == ("1", "0.015")


async def test_an_uncounted_answer_is_charged_by_estimate(user: Person, model: Provider, server: FakeModels) -> None:
    server.always = "uncounted"
    given = (await invoke(user, model)).invocation
    assert given.estimated
    assert given.input_tokens == len(SAID) // 3 + 1 + 8
    assert given.output_tokens == -(-len(TEXT) // 3)


async def test_a_count_that_no_ledger_can_price_is_charged_as_what_was_held(
    user: Person, add_model: AddModel, server: FakeModels
) -> None:
    dear = await add_model(server, output_cost_usd_per_1k="100")
    server.counts = (7, 100_000_000)  # ten million dollars
    given = (await invoke(user, dear)).invocation
    assert (given.output_tokens, given.estimated) == (100, True)
    assert await settled(user) == ("1", given.cost_usd)
