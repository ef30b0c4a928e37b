"""A fresh log for each test."""

import pytest

from services.kit.access import SYSTEM_TENANT
from tests.audit.events import Log
from tests.suite import Suite
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def log(suite: Suite) -> Log:
    """The log of a new tenant, written to by projects."""
    await suite.start("audit")
    peer = await suite.service("projects", SYSTEM_TENANT)
    return Log(suite, suite.person(Role.ROLE_ADMIN), peer.stub(AuditServiceStub))
