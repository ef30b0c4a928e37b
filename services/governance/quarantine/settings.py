"""Settings of the quarantine service: how long each reason keeps a configuration away."""

from dataclasses import dataclass
from typing import Literal

from services.kit.settings import Settings, SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class QuarantineSettings(Settings):
    """Cool-downs hold for requests that give none; a security failure is permanent and has no setting."""

    regression_cool_down_days: int = 30
    """It did worse than what it replaced. Thirty days are long enough for data, models and prompts to have changed."""
    failed_gate_cool_down_days: int = 30
    """It failed a gate outright."""
    cost_cool_down_days: int = 30
    """It cost too much; prices rarely change sooner."""
    resume_seconds: float = 2.0
    """How often unfinished work is looked for. After a failure the pause doubles for that piece, up to a minute."""
    crash_after: Literal["", "quarantine.approved"] = ""
    """Where the process kills itself, to prove that work is resumed. Never in production."""

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if self.profile == "production" and self.crash_after:
            raise SettingsInvalid("crash_after: the production profile does not crash on purpose; remove the setting")
        for name in ("regression", "failed_gate", "cost"):
            if getattr(self, f"{name}_cool_down_days") < 0:
                raise SettingsInvalid(f"{name}_cool_down_days: must not be negative")
        if self.resume_seconds <= 0:
            raise SettingsInvalid("resume_seconds: must be above 0")
