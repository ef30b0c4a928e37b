"""Settings of the experiments service."""

from dataclasses import dataclass

from services.kit.settings import Settings, SettingsInvalid

CRASHES = ("", "promotion.approved")


@dataclass(frozen=True, kw_only=True)
class ExperimentsSettings(Settings):
    """What this service needs beyond what every service needs."""

    required_approvals: int = 1
    """How many people, none of them the one who asked, must approve a promotion; 1 to 10."""
    promotion_days: int = 7
    """Days after which a promotion that is still pending expires."""
    evaluation_days: int = 30
    """Age at which an evaluation no longer carries a promotion."""
    reconcile_seconds: float = 2.0
    """How often approved promotions that were interrupted are looked for."""
    statistics_seconds: float = 45.0
    """Time after which the process that computes an evaluation is killed."""
    crash_after: str = ""
    """Development only, for tests of recovery: the process kills itself after this step (promotion.approved)."""

    def check(self) -> None:
        """Refuse what must not start."""
        super().check()
        if not 1 <= self.required_approvals <= 10:
            raise SettingsInvalid("required_approvals: must be between 1 and 10")
        if self.crash_after not in CRASHES:
            raise SettingsInvalid(f"crash_after: {self.crash_after!r} is no step that the service knows")
        if self.crash_after and self.profile == "production":
            raise SettingsInvalid("crash_after: the production profile does not crash on purpose")
