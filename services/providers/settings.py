"""Settings of the providers service."""

from dataclasses import dataclass

from services.kit.settings import Settings, SettingsInvalid
from services.providers import endpoints


@dataclass(frozen=True, kw_only=True)
class ProvidersSettings(Settings):
    """What every service needs, and what may be called."""

    allow_loopback_endpoints: bool = False
    """Providers may be at http://127.0.0.1:PORT: for development, where a small server plays one."""

    local_endpoint: str = ""
    """A model on the operator's own machines that speaks OpenAI's format: http://HOST:PORT/v1; empty: none."""
    health_check_seconds: int = 300
    """How often each provider is asked whether it is there; 0: never."""

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if self.profile == "production" and self.allow_loopback_endpoints:
            raise SettingsInvalid("allow_loopback_endpoints: the production profile calls public addresses only")
        try:
            endpoints.trust(self.local_endpoint or "https://unset")
        except endpoints.EndpointRefused as fault:
            raise SettingsInvalid(f"local_endpoint: {fault.text}") from None
        if self.health_check_seconds < 0:
            raise SettingsInvalid("health_check_seconds: must be 0 or more")
