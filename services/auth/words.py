"""The words of this context's enums, as its columns hold them."""

from services.kit.words import Words
from triptych.auth.v1.agent_pb2 import AgentLevel, AgentStatus
from triptych.auth.v1.factor_pb2 import FactorKind
from triptych.auth.v1.security_event_pb2 import SecurityEventStatus
from triptych.auth.v1.tenant_pb2 import TenantTier
from triptych.common.v1.role_pb2 import Role

ROLES = Words(Role)
FACTORS = Words(FactorKind)
LEVELS = Words(AgentLevel)
STATUSES = Words(AgentStatus)
EVENT_STATUSES = Words(SecurityEventStatus)
TIERS = Words(TenantTier)
