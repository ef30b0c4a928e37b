"""Projects, versions and their history, baselines, policies."""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
APP = "triptych_projects_app"


def upgrade() -> None:
    create_kit_tables("projects")
    _create_projects()
    _create_versions()
    _guard_versions()
    _create_version_history()
    _create_baselines()
    _create_policies()
    _create_project_policies()


def _create_projects() -> None:
    op.execute(
        """
        CREATE TABLE projects (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
            description text NOT NULL CHECK (char_length(description) <= 4000),
            owner_id uuid NOT NULL,
            settings jsonb NOT NULL,
            configuration_defaults jsonb NOT NULL,
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            archive_time timestamptz,
            UNIQUE (tenant_id, id))
        """
    )
    # A name is free again once its project is archived.
    op.execute("CREATE UNIQUE INDEX projects_name ON projects (tenant_id, name) WHERE archive_time IS NULL")
    op.execute("CREATE INDEX projects_page ON projects (tenant_id, id DESC)")
    # Defaults are part of every hash in the project: they are not granted for update.
    columns = "name, description, settings, revision, update_time, archive_time"
    protect("projects", APP, f"SELECT, INSERT, UPDATE ({columns})")


def _create_versions() -> None:
    op.execute(
        """
        CREATE TABLE versions (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            tag text NOT NULL CHECK (tag IN ('v1', 'v2', 'v3')),
            current boolean NOT NULL CHECK (tag = 'v2' OR NOT current),
            configuration jsonb NOT NULL,
            configuration_hash text NOT NULL CHECK (configuration_hash ~ '^[0-9a-f]{64}$'),
            changelog text NOT NULL CHECK (char_length(changelog) <= 4000),
            parent_version_id uuid,
            supersedes_id uuid CHECK (supersedes_id <> id),
            restored_id uuid CHECK (restored_id <> id),
            created_by text NOT NULL,
            promoted_by text CHECK (tag <> 'v2' OR promoted_by IS NOT NULL),
            promote_time timestamptz CHECK ((promote_time IS NULL) = (promoted_by IS NULL)),
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            UNIQUE (tenant_id, project_id, id),
            UNIQUE (tenant_id, id),
            FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id),
            CONSTRAINT versions_parent FOREIGN KEY (tenant_id, parent_version_id) REFERENCES versions (tenant_id, id),
            FOREIGN KEY (tenant_id, project_id, supersedes_id) REFERENCES versions (tenant_id, project_id, id),
            FOREIGN KEY (tenant_id, project_id, restored_id) REFERENCES versions (tenant_id, project_id, id))
        """
    )
    # One current version of a project and tag; superseded ones stay, so that there is something to roll back to.
    op.execute("CREATE UNIQUE INDEX versions_current ON versions (project_id, tag) WHERE current")
    op.execute("CREATE INDEX versions_page ON versions (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX versions_configuration ON versions (tenant_id, project_id, configuration_hash)")
    columns = "tag, current, supersedes_id, restored_id, promoted_by, promote_time, revision, update_time"
    protect("versions", APP, f"SELECT, INSERT, UPDATE ({columns})")


def _guard_versions() -> None:
    """A tag moves v1 to v2, v1 to v3, v2 to v3, and never out of v3, whatever a service believes."""
    op.execute(
        """
        CREATE FUNCTION guard_version() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF TG_OP = 'INSERT' THEN
            IF NEW.tag = 'v1' OR (NEW.tag = 'v2' AND NEW.current AND NOT EXISTS (
                SELECT FROM versions v WHERE v.project_id = NEW.project_id)) THEN
              RETURN NEW;
            END IF;
            RAISE EXCEPTION 'a version is born as v1; only the first of a project as v2'
              USING ERRCODE = 'check_violation';
          END IF;
          IF OLD.tag = 'v3' THEN
            RAISE EXCEPTION 'a version in v3 does not change' USING ERRCODE = 'check_violation';
          END IF;
          IF (OLD.tag, NEW.tag) NOT IN (('v1', 'v1'), ('v1', 'v2'), ('v1', 'v3'), ('v2', 'v2'), ('v2', 'v3')) THEN
            RAISE EXCEPTION 'a version does not move from % to %', OLD.tag, NEW.tag
              USING ERRCODE = 'check_violation';
          END IF;
          IF OLD.tag = 'v2' AND
             (OLD.supersedes_id, OLD.promoted_by) IS DISTINCT FROM (NEW.supersedes_id, NEW.promoted_by) THEN
            RAISE EXCEPTION 'how a version came into production does not change' USING ERRCODE = 'check_violation';
          END IF;
          RETURN NEW;
        END $$
        """
    )
    op.execute("CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON versions FOR EACH ROW EXECUTE FUNCTION guard_version()")


def _create_version_history() -> None:
    op.execute(
        """
        CREATE TABLE version_history (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            version_id uuid NOT NULL,
            action text NOT NULL CHECK (action IN ('created', 'promoted', 'degraded', 'superseded', 'restored')),
            from_tag text CHECK (from_tag IN ('v1', 'v2', 'v3')),
            to_tag text NOT NULL CHECK (to_tag IN ('v1', 'v2', 'v3')),
            reason text NOT NULL CHECK (char_length(reason) <= 2000),
            changed_by text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (tenant_id, project_id, version_id) REFERENCES versions (tenant_id, project_id, id))
        """
    )
    op.execute("CREATE INDEX version_history_page ON version_history (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX version_history_version ON version_history (version_id, id DESC)")
    protect("version_history", APP, "SELECT, INSERT")


def _create_baselines() -> None:
    op.execute(
        """
        CREATE TABLE baselines (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            metric_key text NOT NULL CHECK (metric_key ~ '^[a-z][a-z0-9_]{1,63}$'),
            operator text NOT NULL CHECK (operator IN ('at_least', 'at_most', 'not_inferior')),
            threshold numeric NOT NULL,
            margin numeric NOT NULL CHECK (margin >= 0),
            confidence numeric NOT NULL CHECK (confidence BETWEEN 0.8 AND 0.999),
            active boolean NOT NULL DEFAULT true,
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id))
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX baselines_active ON baselines (tenant_id, project_id, metric_key, operator) WHERE active"
    )
    op.execute("CREATE INDEX baselines_page ON baselines (tenant_id, project_id, metric_key, id)")
    columns = "threshold, margin, confidence, active, revision, update_time"
    protect("baselines", APP, f"SELECT, INSERT, UPDATE ({columns})")


def _create_policies() -> None:
    op.execute(
        """
        CREATE TABLE policies (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9-]{1,62}$'),
            description text NOT NULL CHECK (char_length(description) <= 4000),
            rego text NOT NULL CHECK (octet_length(rego) BETWEEN 1 AND 65536),
            source_revision integer NOT NULL DEFAULT 1,
            digest text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
            active boolean NOT NULL DEFAULT true,
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            UNIQUE (tenant_id, id),
            CONSTRAINT policies_name UNIQUE (tenant_id, name))
        """
    )
    op.execute(
        """
        CREATE TABLE policy_revisions (
            policy_id uuid NOT NULL,
            source_revision integer NOT NULL,
            tenant_id uuid NOT NULL,
            rego text NOT NULL,
            digest text NOT NULL,
            created_by text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (policy_id, source_revision),
            FOREIGN KEY (tenant_id, policy_id) REFERENCES policies (tenant_id, id))
        """
    )
    columns = "description, rego, source_revision, digest, active, revision, update_time"
    protect("policies", APP, f"SELECT, INSERT, UPDATE ({columns})")
    protect("policy_revisions", APP, "SELECT, INSERT")


def _create_project_policies() -> None:
    op.execute(
        """
        CREATE TABLE project_policies (
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            policy_id uuid NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, project_id, policy_id),
            FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id),
            CONSTRAINT project_policies_policy FOREIGN KEY (tenant_id, policy_id) REFERENCES policies (tenant_id, id))
        """
    )
    protect("project_policies", APP, "SELECT, INSERT, DELETE")
