import asyncio, uuid
from services.governance.quarantine import seals
from services.kit import faults
from tests.quarantine.builders import approve, record
from tests.quarantine.database import APP, Hand, role
from triptych.common.v1.role_pb2 import Role
from triptych.quarantine.v1 import quarantine_service_pb2 as pb
from triptych.quarantine.v1.quarantine_pb2 import QuarantineRequest

async def test_adhoc(suite):
    await suite.start("quarantine")
    admin = suite.person(Role.ROLE_ADMIN)
    ids = []
    async with role(suite, APP, admin.tenant_id) as c:
        for n in range(8):
            ids.append(str((await Hand(c, admin.tenant_id).request())["id"]))
    got = await asyncio.gather(*(approve(admin, QuarantineRequest(id=i)) for i in ids))
    print(got[0])
    print(await record(admin, got[0].record_id))
    async with role(suite, APP, admin.tenant_id) as c:
        rows = await c.fetch("SELECT * FROM quarantine_records ORDER BY position")
        assert [seals.of(dict(r), r["previous_seal"]) == r["seal"] for r in rows] == [True]*8
        await c.execute("update quarantine_requests set state='completed', complete_time=now()")
