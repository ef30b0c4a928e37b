"""Settings of the providers service."""

from dataclasses import dataclass

from services.kit.settings import Settings, SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class ProvidersSettings(Settings):
    """What every service needs, and what may be called."""

    allow_loopback_endpoints: bool = False
    """Providers may be at http://127.0.0.1:PORT: for development, where a small server plays one."""

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if self.profile == "production" and self.allow_loopback_endpoints:
            raise SettingsInvalid("allow_loopback_endpoints: the production profile calls public addresses only")
