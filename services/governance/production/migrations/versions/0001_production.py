"""Analyses, their tasks and leases, artifacts, code reviews.

The state machines stand here as data and triggers: what services/governance/production/lifecycle.py allows, and no more
(a test compares the two). Rows that have reached their end do not change any more, whoever asks.
"""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
APP = "triptych_production_app"
OWNER = "triptych_production_owner"


def upgrade() -> None:
    create_kit_tables("production")
    _create_transitions()
    _create_analyses()
    _create_tasks()
    _create_results()
    _guard()
    _list_expired_leases()


def _create_transitions() -> None:
    op.execute(
        """
        CREATE TABLE transitions (
            entity text NOT NULL, from_state text NOT NULL, to_state text NOT NULL,
            PRIMARY KEY (entity, from_state, to_state))
        """
    )
    op.execute(
        """
        INSERT INTO transitions (entity, from_state, to_state) VALUES
            ('analysis_sessions', 'created', 'queued'),
            ('analysis_sessions', 'queued', 'running'),
            ('analysis_sessions', 'queued', 'cancelled'),
            ('analysis_sessions', 'running', 'completed'),
            ('analysis_sessions', 'running', 'failed'),
            ('analysis_sessions', 'running', 'cancelled'),
            ('analysis_tasks', 'pending', 'running'),
            ('analysis_tasks', 'pending', 'skipped'),
            ('analysis_tasks', 'running', 'pending'),
            ('analysis_tasks', 'running', 'completed'),
            ('analysis_tasks', 'running', 'failed'),
            ('analysis_tasks', 'running', 'skipped')
        """
    )
    op.execute(f"GRANT SELECT ON transitions TO {APP}")


def _create_analyses() -> None:
    # The configuration is a copy: a lease carries it without asking projects, and what ran stays on record.
    op.execute(
        """
        CREATE TABLE analysis_sessions (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            version_id uuid NOT NULL,
            configuration_hash text NOT NULL CHECK (configuration_hash ~ '^[0-9a-f]{64}$'),
            configuration jsonb NOT NULL,
            configuration_size integer NOT NULL CHECK (configuration_size >= 0),
            user_id uuid NOT NULL,
            state text NOT NULL DEFAULT 'created'
                CHECK (state IN ('created', 'queued', 'running', 'completed', 'failed', 'cancelled')),
            metadata jsonb NOT NULL,
            metadata_size integer NOT NULL CHECK (metadata_size >= 0),
            error_message text NOT NULL DEFAULT '' CHECK (length(error_message) <= 2200),
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            start_time timestamptz,
            finish_time timestamptz,
            UNIQUE (tenant_id, id),
            CHECK ((finish_time IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))),
            CHECK (state NOT IN ('running', 'completed', 'failed') OR start_time IS NOT NULL))
        """
    )
    op.execute("CREATE INDEX analysis_sessions_page ON analysis_sessions (tenant_id, id DESC)")
    op.execute("CREATE INDEX analysis_sessions_project ON analysis_sessions (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX analysis_sessions_state ON analysis_sessions (tenant_id, state, id DESC)")
    protect("analysis_sessions", APP, "SELECT, INSERT, UPDATE")


def _create_tasks() -> None:
    op.execute(
        """
        CREATE TABLE analysis_tasks (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            analysis_id uuid NOT NULL,
            type text NOT NULL CHECK (type IN ('static', 'dynamic', 'graph', 'ai')),
            state text NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'running', 'completed', 'failed', 'skipped')),
            input jsonb NOT NULL,
            input_size integer NOT NULL CHECK (input_size >= 0),
            result jsonb,
            result_size integer NOT NULL DEFAULT 0 CHECK (result_size >= 0),
            error_message text NOT NULL DEFAULT '' CHECK (length(error_message) <= 2000),
            optional boolean NOT NULL,
            attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
            max_attempts integer NOT NULL CHECK (max_attempts BETWEEN 1 AND 10),
            worker text NOT NULL DEFAULT '' CHECK (length(worker) <= 120),
            lease_number bigint NOT NULL DEFAULT 0 CHECK (lease_number >= 0),
            lease_holder uuid,
            lease_begin_time timestamptz,
            lease_expire_time timestamptz,
            create_time timestamptz NOT NULL DEFAULT now(),
            start_time timestamptz,
            finish_time timestamptz,
            duration_ms bigint CHECK (duration_ms >= 0),
            FOREIGN KEY (tenant_id, analysis_id) REFERENCES analysis_sessions (tenant_id, id),
            CHECK (attempt <= max_attempts),
            CHECK ((state = 'running') = (lease_expire_time IS NOT NULL)),
            CHECK ((state = 'running') = (lease_holder IS NOT NULL)),
            CHECK ((state IN ('completed', 'failed', 'skipped')) = (finish_time IS NOT NULL)),
            CHECK ((state = 'completed') = (result IS NOT NULL)),
            CHECK ((state = 'completed') = (duration_ms IS NOT NULL)))
        """
    )
    op.execute("CREATE INDEX analysis_tasks_page ON analysis_tasks (tenant_id, analysis_id, id)")
    op.execute(
        "CREATE INDEX analysis_tasks_open ON analysis_tasks (tenant_id, id) INCLUDE (type)"
        " WHERE state IN ('pending', 'running')"
    )
    op.execute("CREATE INDEX analysis_tasks_expiry ON analysis_tasks (lease_expire_time) WHERE state = 'running'")
    protect("analysis_tasks", APP, "SELECT, INSERT, UPDATE")


def _create_results() -> None:
    op.execute(
        """
        CREATE TABLE artifacts (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            analysis_id uuid NOT NULL,
            type text NOT NULL CHECK (type IN ('report', 'patch', 'log', 'metrics')),
            name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$'),
            content_type text NOT NULL CHECK (length(content_type) <= 100),
            sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
            size_bytes bigint NOT NULL CHECK (size_bytes BETWEEN 0 AND 67108864),
            created_by uuid NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            expire_time timestamptz,
            FOREIGN KEY (tenant_id, analysis_id) REFERENCES analysis_sessions (tenant_id, id))
        """
    )
    op.execute("CREATE INDEX artifacts_page ON artifacts (tenant_id, analysis_id, id)")
    op.execute("CREATE INDEX artifacts_expiry ON artifacts (tenant_id, expire_time) WHERE expire_time IS NOT NULL")
    protect("artifacts", APP, "SELECT, INSERT, DELETE")
    op.execute(f"CREATE POLICY expired ON artifacts AS RESTRICTIVE FOR DELETE TO {APP} USING (expire_time < now())")
    # A score has two digits after the point and goes to 100: DECIMAL(3,2) could not have held 72.5.
    op.execute(
        """
        CREATE TABLE code_review_results (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            analysis_id uuid NOT NULL,
            code_language text NOT NULL
                CHECK (code_language IN ('python', 'javascript', 'typescript', 'java', 'go', 'rust', 'cpp', 'c')),
            code_length bigint NOT NULL CHECK (code_length >= 0),
            overall_score numeric(5,2) NOT NULL CHECK (overall_score BETWEEN 0 AND 100),
            vulnerabilities_count integer NOT NULL CHECK (vulnerabilities_count >= 0),
            issues_count integer NOT NULL,
            model_used text NOT NULL CHECK (length(model_used) BETWEEN 1 AND 200),
            analysis_time_ms bigint NOT NULL CHECK (analysis_time_ms >= 0),
            create_time timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (tenant_id, analysis_id) REFERENCES analysis_sessions (tenant_id, id),
            CONSTRAINT code_review_results_issues CHECK (issues_count >= vulnerabilities_count))
        """
    )
    op.execute("CREATE INDEX code_review_results_page ON code_review_results (tenant_id, id DESC)")
    op.execute("CREATE INDEX code_review_results_analysis ON code_review_results (tenant_id, analysis_id, id DESC)")
    op.execute("CREATE INDEX code_review_results_language ON code_review_results (tenant_id, code_language)")
    protect("code_review_results", APP, "SELECT, INSERT")


def _guard() -> None:
    """Refuse states that do not follow, changes of what is pinned, and a fencing token that does not grow."""
    op.execute(
        """
        CREATE FUNCTION guard_state() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (
                SELECT FROM production.transitions WHERE entity = TG_TABLE_NAME AND from_state = OLD.state
            ) THEN
                RAISE EXCEPTION '% % has ended as % and does not change any more', TG_TABLE_NAME, OLD.id, OLD.state
                    USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_ended';
            END IF;
            IF NEW.state <> OLD.state AND NOT EXISTS (
                SELECT FROM production.transitions
                WHERE entity = TG_TABLE_NAME AND from_state = OLD.state AND to_state = NEW.state
            ) THEN
                RAISE EXCEPTION '% % cannot go from % to %', TG_TABLE_NAME, OLD.id, OLD.state, NEW.state
                    USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_transition';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION guard_analysis() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                IF NEW.state <> 'created' THEN
                    RAISE EXCEPTION 'an analysis begins as created'
                        USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_sessions_begin';
                END IF;
            ELSIF (NEW.id, NEW.tenant_id, NEW.project_id, NEW.version_id, NEW.configuration_hash, NEW.configuration,
                   NEW.user_id, NEW.metadata, NEW.create_time)
                  IS DISTINCT FROM
                  (OLD.id, OLD.tenant_id, OLD.project_id, OLD.version_id, OLD.configuration_hash, OLD.configuration,
                   OLD.user_id, OLD.metadata, OLD.create_time) THEN
                RAISE EXCEPTION 'analysis % is pinned to what it was created with', OLD.id
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_sessions_pinned';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION guard_task() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                IF NEW.state <> 'pending' OR NEW.lease_number <> 0 OR NEW.attempt <> 0 THEN
                    RAISE EXCEPTION 'a task begins as pending, without a lease'
                        USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_tasks_begin';
                END IF;
                IF NOT EXISTS (
                    SELECT FROM production.analysis_sessions WHERE id = NEW.analysis_id AND state = 'created'
                ) THEN
                    RAISE EXCEPTION 'tasks are made together with their analysis'
                        USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_tasks_closed';
                END IF;
                RETURN NEW;
            END IF;
            IF (NEW.id, NEW.tenant_id, NEW.analysis_id, NEW.type, NEW.input, NEW.optional, NEW.max_attempts)
               IS DISTINCT FROM
               (OLD.id, OLD.tenant_id, OLD.analysis_id, OLD.type, OLD.input, OLD.optional, OLD.max_attempts) THEN
                RAISE EXCEPTION 'task % is pinned to what it was created with', OLD.id
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_tasks_pinned';
            END IF;
            IF NEW.lease_number - OLD.lease_number NOT IN (0, 1)
               OR NEW.attempt - OLD.attempt <> NEW.lease_number - OLD.lease_number
               OR (NEW.state = 'running' AND NEW.lease_number = OLD.lease_number
                   AND (OLD.state <> 'running' OR NEW.lease_holder IS DISTINCT FROM OLD.lease_holder))
               OR (OLD.state = 'running' AND NEW.lease_number > OLD.lease_number AND OLD.lease_expire_time > now()) THEN
                RAISE EXCEPTION 'a lease of task % has the next number, and nobody else holds one', OLD.id
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'analysis_tasks_fencing';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    for table, guard in {"analysis_sessions": "guard_analysis", "analysis_tasks": "guard_task"}.items():
        op.execute(f"CREATE TRIGGER {guard} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {guard}()")
        op.execute(f"CREATE TRIGGER guard_state BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION guard_state()")


def _list_expired_leases() -> None:
    """Let the sweep learn where leases ran out, in all tenants: which tenant and which task, and nothing else.

    Row-level security is forced on the owner too, hence a policy that shows the owner running tasks and no others.
    """
    op.execute(f"CREATE POLICY sweep ON analysis_tasks FOR SELECT TO {OWNER} USING (state = 'running')")
    op.execute(
        """
        CREATE FUNCTION expired_leases() RETURNS TABLE (tenant_id uuid, task_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = production, pg_temp AS $$
            SELECT t.tenant_id, t.id FROM analysis_tasks t
            WHERE t.state = 'running' AND t.lease_expire_time <= now()
            ORDER BY t.lease_expire_time LIMIT 500
        $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION expired_leases() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION expired_leases() TO {APP}")
