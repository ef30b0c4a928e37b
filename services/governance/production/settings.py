"""Settings of the production service: where artifacts are kept, for how long, and how often the sweeps run."""

from dataclasses import dataclass
from pathlib import Path

from services.kit.settings import Settings, SettingsInvalid


@dataclass(frozen=True, kw_only=True)
class ProductionSettings(Settings):
    """What this service needs beyond the kit's."""

    artifact_dir: Path | None = None
    """Folder of artifacts; `artifacts` below data_dir when not set. Not used with artifact_url."""
    artifact_url: str = ""
    """Object store of artifacts, for instance s3://bucket/prefix; empty: the folder. Without the two key files,
    credentials come from where the store's own tools look for them (environment, instance role)."""
    artifact_endpoint: str = ""
    """Endpoint of an S3 that is not Amazon's; empty: Amazon's."""
    artifact_region: str = ""
    artifact_key_id_file: Path | None = None
    artifact_secret_file: Path | None = None
    artifact_days: int = 0
    """Days until an artifact expires and is deleted; 0: never."""
    orphan_seconds: float = 3600.0
    """Age at which an object without a row is deleted; it must exceed the longest upload."""
    artifact_sweep_seconds: float = 3600.0
    lease_sweep_seconds: float = 5.0

    def check(self) -> None:
        super().check()
        if not self.artifact_url and self.artifact_dir is None and self.data_dir is None:
            raise SettingsInvalid("artifact_url, artifact_dir or data_dir: one of them must be set")
        if self.orphan_seconds < 600:
            raise SettingsInvalid("orphan_seconds: at least 600, or an upload under way would lose its object")
        if self.artifact_days < 0:
            raise SettingsInvalid("artifact_days: 0 keeps artifacts, more than 0 is a number of days")

    @property
    def artifact_folder(self) -> Path:
        """The folder that artifacts are kept in, when no URL is set."""
        if self.artifact_dir is not None:
            return self.artifact_dir
        if self.data_dir is None:
            raise SettingsInvalid("artifact_dir or data_dir must be set")
        return self.data_dir / "artifacts"
