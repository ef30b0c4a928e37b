"""The words of this context's enums, as its columns hold them."""

from services.kit.words import Words
from triptych.providers.v1.key_pb2 import KeyState
from triptych.providers.v1.provider_health_pb2 import HealthState
from triptych.providers.v1.provider_pb2 import ProviderType
from triptych.providers.v1.quota_pb2 import ReservationState

TYPES = Words(ProviderType)
KEY_STATES = Words(KeyState)
HEALTH_STATES = Words(HealthState)
RESERVATION_STATES = Words(ReservationState)
