"""Quarantine requests, sealed records and their dispositions, re-evaluations.

What must hold whatever the service's code does is written here: two persons; what is sealed stays; no chain forks.
"""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
SCHEMA = "quarantine"
APP = f"triptych_{SCHEMA}_app"
OWNER = f"triptych_{SCHEMA}_owner"
HASH = "'^[0-9a-f]{64}$'"


def upgrade() -> None:
    create_kit_tables(SCHEMA)
    _transitions()
    _requests()
    _records()
    _dispositions()
    _reevaluations()
    _refusals()
    _resumption()


def _transitions() -> None:
    """Every step that a state may take; a foreign key refuses all others. Nobody is granted anything on this table."""
    op.execute(
        """
        CREATE TABLE transitions (
            kind text NOT NULL, from_state text NOT NULL, to_state text NOT NULL,
            PRIMARY KEY (kind, from_state, to_state))
        """
    )
    op.execute(
        """
        INSERT INTO transitions (kind, from_state, to_state) VALUES
            ('request', 'new', 'pending'),
            ('request', 'pending', 'approved'),
            ('request', 'pending', 'rejected'),
            ('request', 'approved', 'completed'),
            ('reevaluation', 'new', 'pending'),
            ('reevaluation', 'pending', 'approved'),
            ('reevaluation', 'pending', 'rejected'),
            ('reevaluation', 'approved', 'completed'),
            ('reevaluation', 'completed', 'completed'),
            ('record', 'new', 'quarantined'),
            ('record', 'quarantined', 'under_review'),
            ('record', 'under_review', 'upheld'),
            ('record', 'under_review', 'approved_retry'),
            ('record', 'upheld', 'under_review')
        """
    )


def _requests() -> None:
    # approved_by names the second person once there is one; records point at it: none exists without an approval.
    op.execute(
        f"""
        CREATE TABLE quarantine_requests (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            project_id uuid NOT NULL,
            version_id uuid NOT NULL,
            experiment_id uuid,
            configuration jsonb NOT NULL,
            configuration_hash text NOT NULL CHECK (configuration_hash ~ {HASH}),
            kind text NOT NULL DEFAULT 'request' CHECK (kind = 'request'),
            previous_state text NOT NULL DEFAULT 'new',
            state text NOT NULL DEFAULT 'pending',
            reason text NOT NULL CHECK (reason IN ('regression', 'failed_gate', 'security', 'cost')),
            explanation text NOT NULL CHECK (length(explanation) BETWEEN 10 AND 4000),
            evidence jsonb NOT NULL CHECK (evidence <> '{{}}'),
            cool_down interval CHECK (cool_down >= interval '0'),
            permanent boolean NOT NULL,
            requested_by uuid NOT NULL,
            decided_by uuid,
            decision_reason text CHECK (length(decision_reason) BETWEEN 1 AND 2000),
            record_id uuid,
            restored_version_id uuid,
            create_time timestamptz NOT NULL DEFAULT now(),
            decide_time timestamptz,
            complete_time timestamptz,
            revision integer NOT NULL DEFAULT 1,
            approved_by uuid
                GENERATED ALWAYS AS (CASE WHEN state IN ('approved', 'completed') THEN decided_by END) STORED,
            FOREIGN KEY (kind, previous_state, state) REFERENCES transitions,
            CONSTRAINT quarantine_requests_four_eyes CHECK (approved_by <> requested_by),
            CHECK (permanent = (cool_down IS NULL)),
            CHECK (permanent OR reason <> 'security'),
            CHECK ((state = 'pending') = (decided_by IS NULL)),
            CHECK ((decided_by IS NULL) = (decide_time IS NULL) AND (decided_by IS NULL) = (decision_reason IS NULL)),
            CHECK ((approved_by IS NULL) = (record_id IS NULL)),
            CHECK ((state = 'completed') = (complete_time IS NOT NULL)),
            CHECK (state = 'completed' OR restored_version_id IS NULL),
            UNIQUE (tenant_id, id, version_id, configuration_hash, requested_by, approved_by))
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX quarantine_requests_open ON quarantine_requests (tenant_id, version_id)"
        " WHERE state IN ('pending', 'approved')"
    )
    op.execute("CREATE INDEX quarantine_requests_page ON quarantine_requests (tenant_id, id DESC)")
    op.execute("CREATE INDEX quarantine_requests_project ON quarantine_requests (tenant_id, project_id, id DESC)")
    op.execute(
        "CREATE INDEX quarantine_requests_approved ON quarantine_requests (decide_time) WHERE state = 'approved'"
    )
    _guard(
        "quarantine_requests",
        pending="decided_by, decision_reason, decide_time, record_id",
        approved="restored_version_id, complete_time",
    )
    protect(
        "quarantine_requests",
        APP,
        "SELECT, INSERT, UPDATE (state, decided_by, decision_reason, decide_time, record_id, restored_version_id,"
        " complete_time)",
    )


def _records() -> None:
    # The chain: position n points at position n - 1 and its seal. The first has no predecessor, hence the nullif, and
    # its previous seal is zeros. A position exists once, so the chain cannot fork.
    op.execute(
        f"""
        CREATE TABLE quarantine_records (
            id uuid PRIMARY KEY,
            tenant_id uuid NOT NULL,
            request_id uuid NOT NULL,
            position bigint NOT NULL CHECK (position > 0),
            previous_position bigint GENERATED ALWAYS AS (nullif(position - 1, 0)) STORED,
            previous_seal text NOT NULL CHECK (previous_seal ~ {HASH}),
            seal text NOT NULL CHECK (seal ~ {HASH}),
            project_id uuid NOT NULL,
            version_id uuid NOT NULL,
            experiment_id uuid,
            configuration_hash text NOT NULL,
            configuration jsonb NOT NULL,
            reason text NOT NULL,
            explanation text NOT NULL,
            evidence jsonb NOT NULL,
            failure_metrics jsonb GENERATED ALWAYS AS (evidence -> 'metrics') STORED,
            permanent boolean NOT NULL,
            cool_down_end_time timestamptz,
            requested_by uuid NOT NULL,
            quarantined_by uuid NOT NULL,
            decision_reason text NOT NULL,
            quarantine_time timestamptz NOT NULL,
            CONSTRAINT quarantine_records_four_eyes CHECK (quarantined_by <> requested_by),
            CHECK (permanent = (cool_down_end_time IS NULL)),
            CHECK (position > 1 OR previous_seal = repeat('0', 64)),
            UNIQUE (tenant_id, request_id),
            UNIQUE (tenant_id, id, request_id),
            UNIQUE (tenant_id, id, configuration_hash, permanent),
            UNIQUE (tenant_id, position),
            UNIQUE (tenant_id, position, seal),
            FOREIGN KEY (tenant_id, previous_position, previous_seal)
                REFERENCES quarantine_records (tenant_id, position, seal),
            FOREIGN KEY (tenant_id, request_id, version_id, configuration_hash, requested_by, quarantined_by)
                REFERENCES quarantine_requests
                    (tenant_id, id, version_id, configuration_hash, requested_by, approved_by))
        """
    )
    op.execute(
        "CREATE INDEX quarantine_records_hash ON quarantine_records (tenant_id, configuration_hash, position DESC)"
    )
    op.execute("CREATE INDEX quarantine_records_project ON quarantine_records (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX quarantine_records_page ON quarantine_records (tenant_id, id DESC)")
    # An approved request has its record when the transaction ends, or the transaction does not end well.
    op.execute(
        "ALTER TABLE quarantine_requests ADD CONSTRAINT quarantine_requests_record"
        " FOREIGN KEY (tenant_id, record_id, id) REFERENCES quarantine_records (tenant_id, id, request_id)"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    op.execute(
        """
        CREATE TABLE chain_heads (
            tenant_id uuid PRIMARY KEY,
            position bigint NOT NULL DEFAULT 0,
            seal text NOT NULL DEFAULT repeat('0', 64),
            tail bigint GENERATED ALWAYS AS (nullif(position, 0)) STORED,
            FOREIGN KEY (tenant_id, tail, seal) REFERENCES quarantine_records (tenant_id, position, seal),
            CHECK (position > 0 OR seal = repeat('0', 64)))
        """
    )
    op.execute(
        """
        CREATE FUNCTION guard_chain_heads() RETURNS trigger LANGUAGE plpgsql SET search_path = quarantine, pg_temp AS $$
        BEGIN
            IF TG_OP = 'INSERT' AND NEW.position <> 0 THEN
                RAISE 'a chain begins at 0' USING ERRCODE = 'TQ001';
            ELSIF TG_OP = 'UPDATE' AND (NEW.tenant_id <> OLD.tenant_id OR NEW.position <> OLD.position + 1) THEN
                RAISE 'the head of a chain moves by one' USING ERRCODE = 'TQ001';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON chain_heads FOR EACH ROW EXECUTE FUNCTION guard_chain_heads()"
    )
    # What is sealed is what was approved, and a configuration is not sealed twice unless it was released between.
    op.execute(
        """
        CREATE FUNCTION guard_quarantine_records() RETURNS trigger LANGUAGE plpgsql
            SET search_path = quarantine, pg_temp AS $$
        DECLARE
            head chain_heads;
            asked quarantine_requests;
            standing text;
        BEGIN
            SELECT * INTO head FROM chain_heads WHERE tenant_id = NEW.tenant_id FOR UPDATE;
            IF head.position + 1 IS DISTINCT FROM NEW.position OR head.seal IS DISTINCT FROM NEW.previous_seal THEN
                RAISE 'a record goes to the end of its chain' USING ERRCODE = 'TQ001';
            END IF;
            SELECT * INTO asked FROM quarantine_requests WHERE id = NEW.request_id;
            IF (asked.project_id, asked.experiment_id, asked.configuration, asked.reason, asked.explanation,
                    asked.evidence, asked.permanent, asked.decision_reason, NEW.quarantine_time + asked.cool_down)
                IS DISTINCT FROM (NEW.project_id, NEW.experiment_id, NEW.configuration, NEW.reason, NEW.explanation,
                    NEW.evidence, NEW.permanent, NEW.decision_reason, NEW.cool_down_end_time)
            THEN
                RAISE 'what is sealed is what was approved' USING ERRCODE = 'TQ002';
            END IF;
            SELECT d.disposition INTO standing FROM quarantine_records r LEFT JOIN dispositions d
                ON d.tenant_id = r.tenant_id AND d.record_id = r.id
                WHERE r.tenant_id = NEW.tenant_id AND r.configuration_hash = NEW.configuration_hash
                ORDER BY r.position DESC, d.sequence DESC LIMIT 1;
            IF FOUND AND standing IS DISTINCT FROM 'approved_retry' THEN
                RAISE 'this configuration is sealed already' USING ERRCODE = 'TQ003';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard BEFORE INSERT ON quarantine_records"
        " FOR EACH ROW EXECUTE FUNCTION guard_quarantine_records()"
    )
    protect("quarantine_records", APP, "SELECT, INSERT")
    protect("chain_heads", APP, "SELECT, INSERT (tenant_id), UPDATE (position, seal)")


def _dispositions() -> None:
    # Each disposition points at the one before it: the newest is followed once, and only as transitions say.
    op.execute(
        """
        CREATE TABLE dispositions (
            tenant_id uuid NOT NULL,
            record_id uuid NOT NULL,
            sequence integer NOT NULL CHECK (sequence > 0),
            previous_sequence integer GENERATED ALWAYS AS (nullif(sequence - 1, 0)) STORED,
            kind text NOT NULL DEFAULT 'record' CHECK (kind = 'record'),
            previous_disposition text NOT NULL,
            disposition text NOT NULL,
            note text NOT NULL,
            actor_id uuid NOT NULL,
            reevaluation_id uuid,
            create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (tenant_id, record_id, sequence),
            UNIQUE (tenant_id, record_id, sequence, disposition),
            FOREIGN KEY (tenant_id, record_id, previous_sequence, previous_disposition)
                REFERENCES dispositions (tenant_id, record_id, sequence, disposition),
            FOREIGN KEY (kind, previous_disposition, disposition) REFERENCES transitions,
            FOREIGN KEY (record_id) REFERENCES quarantine_records,
            CHECK ((sequence = 1) = (previous_disposition = 'new')),
            CHECK ((sequence = 1) = (reevaluation_id IS NULL)))
        """
    )
    protect("dispositions", APP, "SELECT, INSERT")


def _reevaluations() -> None:
    # permanent is always false: the foreign key then finds only records that may be re-evaluated.
    op.execute(
        """
        CREATE TABLE reevaluation_requests (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            record_id uuid NOT NULL,
            configuration_hash text NOT NULL,
            permanent boolean NOT NULL DEFAULT false CHECK (NOT permanent),
            kind text NOT NULL DEFAULT 'reevaluation' CHECK (kind = 'reevaluation'),
            previous_state text NOT NULL DEFAULT 'new',
            state text NOT NULL DEFAULT 'pending',
            reason text NOT NULL CHECK (length(reason) BETWEEN 10 AND 2000),
            evidence jsonb NOT NULL CHECK (evidence <> '{}'),
            attempt integer NOT NULL,
            requested_by uuid NOT NULL,
            decided_by uuid,
            decision_reason text CHECK (length(decision_reason) BETWEEN 1 AND 2000),
            evaluation_id uuid,
            outcome text CHECK (outcome IN ('released', 'upheld')),
            result jsonb,
            completed_by uuid,
            review_pending boolean NOT NULL DEFAULT false,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            decide_time timestamptz,
            complete_time timestamptz,
            revision integer NOT NULL DEFAULT 1,
            approved_by uuid
                GENERATED ALWAYS AS (CASE WHEN state IN ('approved', 'completed') THEN decided_by END) STORED,
            FOREIGN KEY (tenant_id, record_id, configuration_hash, permanent)
                REFERENCES quarantine_records (tenant_id, id, configuration_hash, permanent),
            FOREIGN KEY (kind, previous_state, state) REFERENCES transitions,
            CONSTRAINT reevaluation_requests_four_eyes CHECK (approved_by <> requested_by),
            CONSTRAINT reevaluation_requests_attempts CHECK (attempt BETWEEN 1 AND 5),
            CHECK ((state = 'pending') = (decided_by IS NULL)),
            CHECK ((decided_by IS NULL) = (decide_time IS NULL) AND (decided_by IS NULL) = (decision_reason IS NULL)),
            CHECK ((state = 'completed') = (complete_time IS NOT NULL) AND (state = 'completed') = (outcome IS NOT NULL)
                AND (state = 'completed') = (evaluation_id IS NOT NULL) AND (state = 'completed') = (result IS NOT NULL)
                AND (state = 'completed') = (completed_by IS NOT NULL)),
            CHECK (state = 'completed' OR NOT review_pending))
        """
    )
    # Open also means: completed, and the blacklist was not told yet. The next try must not overtake that.
    op.execute(
        "CREATE UNIQUE INDEX reevaluation_requests_open ON reevaluation_requests (tenant_id, record_id)"
        " WHERE state IN ('pending', 'approved') OR review_pending"
    )
    op.execute(
        "CREATE UNIQUE INDEX reevaluation_requests_attempt ON reevaluation_requests (tenant_id, record_id, attempt)"
        " WHERE state <> 'rejected'"
    )
    op.execute("CREATE INDEX reevaluation_requests_page ON reevaluation_requests (tenant_id, id DESC)")
    op.execute("CREATE INDEX reevaluation_requests_record ON reevaluation_requests (tenant_id, record_id, id DESC)")
    op.execute(
        "CREATE INDEX reevaluation_requests_review ON reevaluation_requests (tenant_id, configuration_hash)"
        " WHERE review_pending"
    )
    _guard(
        "reevaluation_requests",
        pending="decided_by, decision_reason, decide_time",
        approved="evaluation_id, outcome, result, completed_by, complete_time, review_pending",
        completed="review_pending",
    )
    op.execute(
        """
        CREATE FUNCTION guard_cool_downs() RETURNS trigger LANGUAGE plpgsql SET search_path = quarantine, pg_temp AS $$
        BEGIN
            IF EXISTS (SELECT FROM quarantine_records
                       WHERE id = NEW.record_id AND cool_down_end_time > clock_timestamp()) THEN
                RAISE 'the cool-down of this record is running' USING ERRCODE = 'TQ005';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard_cool_down BEFORE INSERT ON reevaluation_requests"
        " FOR EACH ROW EXECUTE FUNCTION guard_cool_downs()"
    )
    protect(
        "reevaluation_requests",
        APP,
        "SELECT, INSERT, UPDATE (state, decided_by, decision_reason, decide_time, evaluation_id, outcome, result,"
        " completed_by, complete_time, review_pending, update_time)",
    )
    op.execute("ALTER TABLE reevaluation_requests ADD UNIQUE (tenant_id, id, record_id)")
    op.execute(
        "ALTER TABLE dispositions ADD FOREIGN KEY (tenant_id, reevaluation_id, record_id)"
        " REFERENCES reevaluation_requests (tenant_id, id, record_id)"
    )


def _guard(table: str, **movable: str) -> None:
    """Rows begin pending; in each state only the columns named for it may change."""
    cases = " ".join(f"WHEN '{state}' THEN '{{{columns}}}'::text[]" for state, columns in movable.items())
    op.execute(
        f"""
        CREATE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql SET search_path = {SCHEMA}, pg_temp AS $$
        DECLARE
            movable text[];
        BEGIN
            IF TG_OP = 'INSERT' THEN
                IF NEW.state <> 'pending' OR NEW.previous_state <> 'new' OR NEW.revision <> 1 THEN
                    RAISE 'a row of % begins pending', TG_TABLE_NAME USING ERRCODE = 'TQ004';
                END IF;
                RETURN NEW;
            END IF;
            NEW.previous_state := OLD.state;
            NEW.revision := OLD.revision + 1;
            movable := CASE OLD.state {cases} ELSE '{{}}' END
                || '{{state, previous_state, revision, update_time, approved_by}}';
            IF to_jsonb(NEW) - movable <> to_jsonb(OLD) - movable THEN
                RAISE 'a column of % that is frozen in state % would change', TG_TABLE_NAME, OLD.state
                    USING ERRCODE = 'TQ004';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(f"CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION guard_{table}()")


def _refusals() -> None:
    """Nothing is deleted here, and what is sealed does not change. For each statement, so that it also meets the owner.

    The owner sees no rows (row-level security is forced), and a trigger for each row would never fire for it.
    """
    op.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE '% of % is refused: what is there stays there', TG_OP, TG_TABLE_NAME USING ERRCODE = 'TQ006';
        END $$
        """
    )
    for table in ("quarantine_records", "dispositions", "transitions"):
        op.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    for table in ("quarantine_requests", "reevaluation_requests", "chain_heads"):
        op.execute(
            f"CREATE TRIGGER refuse BEFORE DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )


def _resumption() -> None:
    """Let the service find what a crash interrupted, in all tenants: ids alone, through one function.

    The function runs as the schema's owner, with which nobody logs in; the two policies show it unfinished rows only.
    """
    op.execute(f"CREATE POLICY resumption ON quarantine_requests FOR SELECT TO {OWNER} USING (state = 'approved')")
    op.execute(f"CREATE POLICY resumption ON reevaluation_requests FOR SELECT TO {OWNER} USING (review_pending)")
    op.execute(
        """
        CREATE FUNCTION unfinished() RETURNS TABLE (kind text, tenant_id uuid, id uuid)
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = quarantine, pg_temp AS $$
            (SELECT 'reevaluation', r.tenant_id, r.id FROM quarantine.reevaluation_requests r WHERE r.review_pending
             ORDER BY r.complete_time LIMIT 500)
            UNION ALL
            (SELECT 'request', q.tenant_id, q.id FROM quarantine.quarantine_requests q WHERE q.state = 'approved'
             ORDER BY q.decide_time LIMIT 500)
        $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION unfinished() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION unfinished() TO {APP}")
