"""Datasets, experiments, evaluations, promotions, the blacklist; and the rules that the database keeps by itself.

State changes are foreign keys into tables of transitions. What must never be true together (an approved promotion and a
blocked configuration, a person and their own request) is a constraint, so that no race and no code path gets around it.
"""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
APP, OWNER = "triptych_experiments_app", "triptych_experiments_owner"
HEX = "~ '^[0-9a-f]{64}$'"
EXPERIMENT_TRANSITIONS = """
    new>created created>running created>cancelled created>quarantined running>completed running>failed running>cancelled
    running>quarantined completed>evaluating completed>quarantined evaluating>promoted evaluating>quarantined
    failed>quarantined promoted>quarantined
"""
PROMOTION_TRANSITIONS = "new>pending pending>approved pending>rejected approved>completed approved>rejected"


def upgrade() -> None:
    create_kit_tables("experiments")
    _functions()
    _datasets()
    _configurations()
    _experiments()
    _item_results()
    _evaluations()
    _promotions()
    _approvals()
    _comparison_reports()
    _reconciliation()


def _functions() -> None:
    # A refusal carries a constraint's name, as a violated constraint does: the service names faults by it.
    op.execute(
        """
        CREATE FUNCTION refuse(rule text, text text) RETURNS void
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN RAISE EXCEPTION '%', text USING ERRCODE = 'check_violation', CONSTRAINT = rule; END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION append_only() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN PERFORM refuse('append_only', TG_TABLE_NAME || ' is append-only'); RETURN NULL; END $$
        """
    )
    # Everything but the columns named as trigger arguments stays as it was inserted.
    op.execute(
        """
        CREATE FUNCTION frozen() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF to_jsonb(NEW) - TG_ARGV IS DISTINCT FROM to_jsonb(OLD) - TG_ARGV THEN
                PERFORM refuse(TG_TABLE_NAME || '_frozen', 'these columns of ' || TG_TABLE_NAME || ' never change');
            END IF;
            RETURN NEW;
        END $$
        """
    )


def _append_only(table: str) -> None:
    op.execute(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION append_only()"
    )
    op.execute(
        f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
    )


def _no_removal(table: str) -> None:
    op.execute(f"CREATE TRIGGER no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION append_only()")
    op.execute(
        f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION append_only()"
    )


def _transitions(table: str, pairs: str) -> None:
    op.execute(f"CREATE TABLE {table} (from_state text, to_state text, PRIMARY KEY (from_state, to_state))")
    values = ", ".join("('{}', '{}')".format(*pair.split(">")) for pair in pairs.split())
    op.execute(f"INSERT INTO {table} VALUES {values}")
    op.execute(f"GRANT SELECT ON {table} TO {APP}")


def _datasets() -> None:
    op.execute(
        f"""
        CREATE TABLE datasets (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL,
            name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
            description text NOT NULL CHECK (char_length(description) <= 4000),
            digest text NOT NULL CHECK (digest {HEX}),
            item_count integer NOT NULL CHECK (item_count BETWEEN 1 AND 10000),
            created_by uuid NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT datasets_name UNIQUE (tenant_id, name), UNIQUE (tenant_id, id))
        """
    )
    op.execute("CREATE INDEX datasets_page ON datasets (tenant_id, id DESC)")
    op.execute(
        f"""
        CREATE TABLE dataset_items (
            tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
            item_id text COLLATE "C" NOT NULL CHECK (char_length(item_id) BETWEEN 1 AND 200),
            content_sha256 text NOT NULL CHECK (content_sha256 {HEX}),
            label text NOT NULL CHECK (char_length(label) BETWEEN 1 AND 64),
            item_group text NOT NULL CHECK (char_length(item_group) <= 120),
            PRIMARY KEY (tenant_id, dataset_id, item_id),
            FOREIGN KEY (tenant_id, dataset_id) REFERENCES datasets (tenant_id, id))
        """
    )
    # The digest was computed over the items that came with the dataset: none may follow in a later transaction.
    op.execute(
        """
        CREATE FUNCTION dataset_items_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF EXISTS (SELECT FROM added a JOIN datasets d ON d.id = a.dataset_id
                       WHERE d.xmin <> pg_current_xact_id()::xid) THEN
                PERFORM refuse('dataset_items_frozen', 'a dataset never gets more items');
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard AFTER INSERT ON dataset_items REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION dataset_items_guard()"
    )
    for table in ("datasets", "dataset_items"):
        _append_only(table)
        protect(table, APP, "SELECT, INSERT")


def _configurations() -> None:
    op.execute(
        f"""
        CREATE TABLE configurations (
            tenant_id uuid NOT NULL, configuration_hash text NOT NULL CHECK (configuration_hash {HEX}),
            blocked boolean NOT NULL DEFAULT false, create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, configuration_hash),
            CONSTRAINT configurations_blocked UNIQUE (tenant_id, configuration_hash, blocked))
        """
    )
    op.execute(
        """
        CREATE TABLE blacklist (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL, configuration_hash text NOT NULL,
            reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 2000), evidence jsonb NOT NULL,
            quarantine_record_id uuid NOT NULL, quarantined_by uuid NOT NULL,
            quarantine_time timestamptz NOT NULL DEFAULT now(),
            review_state text NOT NULL DEFAULT 'pending' CHECK (review_state IN ('pending', 'reviewed', 'appealed')),
            reviewed_by uuid, review_time timestamptz,
            CONSTRAINT blacklist_hash UNIQUE (tenant_id, configuration_hash),
            FOREIGN KEY (tenant_id, configuration_hash) REFERENCES configurations,
            CHECK ((review_state = 'pending') = (reviewed_by IS NULL)))
        """
    )
    op.execute("CREATE INDEX blacklist_page ON blacklist (tenant_id, id DESC)")
    op.execute(
        """
        CREATE FUNCTION configurations_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF OLD.blocked AND NOT NEW.blocked AND NOT EXISTS (
                SELECT FROM blacklist b WHERE b.tenant_id = NEW.tenant_id
                AND b.configuration_hash = NEW.configuration_hash AND b.review_state = 'reviewed') THEN
                PERFORM refuse('configurations_review', 'only a review releases a blocked configuration');
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard BEFORE UPDATE ON configurations FOR EACH ROW EXECUTE FUNCTION configurations_guard()"
    )
    op.execute("CREATE TRIGGER frozen BEFORE UPDATE ON configurations FOR EACH ROW EXECUTE FUNCTION frozen('blocked')")
    for table in ("configurations", "blacklist"):
        _no_removal(table)
    protect("configurations", APP, "SELECT, INSERT, UPDATE (blocked)")
    protect(
        "blacklist",
        APP,
        "SELECT, INSERT, UPDATE (reason, evidence, quarantine_record_id, quarantined_by, quarantine_time, review_state,"
        " reviewed_by, review_time)",
    )


def _experiments() -> None:
    _transitions("experiment_transitions", EXPERIMENT_TRANSITIONS)
    op.execute(
        """
        CREATE TABLE experiments (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL, project_id uuid NOT NULL,
            dataset_id uuid NOT NULL, name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
            description text NOT NULL CHECK (char_length(description) <= 4000),
            configuration jsonb NOT NULL, configuration_hash text NOT NULL,
            version_id uuid NOT NULL, production_version_id uuid, reevaluation_id uuid, created_by uuid NOT NULL,
            previous_state text NOT NULL DEFAULT 'new', state text NOT NULL DEFAULT 'created',
            state_reason text NOT NULL DEFAULT '' CHECK (char_length(state_reason) <= 2000),
            result_count integer NOT NULL DEFAULT 0 CHECK (result_count >= 0), revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now(),
            start_time timestamptz, complete_time timestamptz,
            -- A live experiment needs an unblocked configuration, unless a re-evaluation let it in; NULL is free.
            must_be boolean GENERATED ALWAYS AS (CASE WHEN reevaluation_id IS NULL
                AND state NOT IN ('promoted', 'quarantined', 'cancelled') THEN false END) STORED,
            CONSTRAINT experiments_transition FOREIGN KEY (previous_state, state) REFERENCES experiment_transitions,
            CONSTRAINT experiments_dataset FOREIGN KEY (tenant_id, dataset_id) REFERENCES datasets (tenant_id, id),
            FOREIGN KEY (tenant_id, configuration_hash) REFERENCES configurations,
            CONSTRAINT experiments_unblocked FOREIGN KEY (tenant_id, configuration_hash, must_be)
                REFERENCES configurations (tenant_id, configuration_hash, blocked),
            UNIQUE (tenant_id, id), UNIQUE (tenant_id, id, dataset_id), UNIQUE (tenant_id, id, created_by))
        """
    )
    # Trying until it passes is refused: a re-evaluation carries one experiment; one that never started is given back.
    op.execute(
        "CREATE UNIQUE INDEX experiments_reevaluation ON experiments (tenant_id, reevaluation_id)"
        " WHERE state <> 'cancelled' OR start_time IS NOT NULL"
    )
    op.execute("CREATE INDEX experiments_page ON experiments (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX experiments_newest ON experiments (tenant_id, id DESC)")
    op.execute("CREATE INDEX experiments_hash ON experiments (tenant_id, configuration_hash)")
    op.execute(
        """
        CREATE FUNCTION experiments_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                NEW.previous_state := 'new'; NEW.state := 'created'; NEW.result_count := 0; NEW.revision := 1;
                NEW.production_version_id := NULL; NEW.start_time := NULL; NEW.complete_time := NULL;
                RETURN NEW;
            END IF;
            NEW.previous_state := CASE WHEN NEW.state = OLD.state THEN OLD.previous_state ELSE OLD.state END;
            IF NEW.state = OLD.state AND OLD.state <> 'running' THEN
                PERFORM refuse('experiments_frozen', 'an experiment changes with its state, and while it runs');
            END IF;
            IF NEW.production_version_id IS DISTINCT FROM OLD.production_version_id AND NOT
                (OLD.state = 'created' AND NEW.state = 'running') THEN
                PERFORM refuse('experiments_frozen', 'production is pinned at the start');
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE ON experiments"
        " FOR EACH ROW EXECUTE FUNCTION experiments_guard()"
    )
    op.execute(
        "CREATE TRIGGER frozen BEFORE UPDATE ON experiments FOR EACH ROW"
        " EXECUTE FUNCTION frozen('previous_state', 'state',"
        " 'state_reason', 'result_count', 'revision', 'update_time', 'start_time', 'complete_time',"
        " 'production_version_id', 'must_be')"
    )
    _no_removal("experiments")
    protect(
        "experiments",
        APP,
        "SELECT, INSERT, UPDATE (state, state_reason, result_count, revision, update_time, start_time, complete_time,"
        " production_version_id)",
    )


def _item_results() -> None:
    op.execute(
        """
        CREATE TABLE item_results (
            tenant_id uuid NOT NULL, experiment_id uuid NOT NULL, dataset_id uuid NOT NULL,
            item_id text COLLATE "C" NOT NULL, arm text NOT NULL CHECK (arm IN ('candidate', 'production')),
            answer text NOT NULL CHECK (char_length(answer) <= 64),
            error text NOT NULL CHECK (char_length(error) <= 1000),
            latency_ms double precision NOT NULL CHECK (latency_ms >= 0 AND latency_ms < 'Infinity'),
            cost_usd numeric(20, 12) NOT NULL CHECK (cost_usd >= 0),
            details jsonb NOT NULL, correct boolean NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, experiment_id, item_id, arm),
            CHECK (answer <> '' OR (error <> '' AND NOT correct)),
            FOREIGN KEY (tenant_id, experiment_id, dataset_id) REFERENCES experiments (tenant_id, id, dataset_id),
            FOREIGN KEY (tenant_id, dataset_id, item_id) REFERENCES dataset_items)
        """
    )
    # Right or wrong is not the sender's word: it is the label's.
    op.execute(
        """
        CREATE FUNCTION item_results_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF EXISTS (SELECT FROM added a JOIN experiments e ON e.id = a.experiment_id WHERE e.state <> 'running') THEN
                PERFORM refuse('item_results_running', 'results are recorded while the experiment runs');
            END IF;
            IF EXISTS (SELECT FROM added a JOIN dataset_items i USING (tenant_id, dataset_id, item_id)
                       WHERE a.correct <> (a.answer = i.label)) THEN
                PERFORM refuse('item_results_correct', 'the label says whether an answer is right');
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER guard AFTER INSERT ON item_results REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION item_results_guard()"
    )
    _append_only("item_results")
    protect("item_results", APP, "SELECT, INSERT")


def _evaluations() -> None:
    verdicts = "('pass', 'fail', 'manual_review')"
    op.execute(
        f"""
        CREATE TABLE evaluations (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL, experiment_id uuid NOT NULL,
            experiment_created_by uuid NOT NULL, project_id uuid NOT NULL,
            configuration_hash text NOT NULL CHECK (configuration_hash {HEX}),
            dataset_digest text NOT NULL CHECK (dataset_digest {HEX}), baseline_revision text NOT NULL,
            metrics jsonb NOT NULL, gates jsonb NOT NULL,
            verdict text NOT NULL CHECK (verdict IN {verdicts}),
            confidence numeric(6, 5) NOT NULL CHECK (confidence BETWEEN 0 AND 1),
            override_verdict text CHECK (override_verdict IN ('pass', 'fail')),
            override_reason text CHECK (char_length(override_reason) BETWEEN 10 AND 2000),
            overridden_by uuid, override_time timestamptz,
            effective_verdict text NOT NULL GENERATED ALWAYS AS (coalesce(override_verdict, verdict)) STORED,
            evaluated_by text NOT NULL GENERATED ALWAYS AS
                (CASE WHEN override_verdict IS NULL THEN 'statistics' ELSE 'person' END) STORED,
            seed bigint NOT NULL, created_by uuid NOT NULL, revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT evaluations_once UNIQUE (tenant_id, experiment_id),
            UNIQUE (tenant_id, id), UNIQUE (tenant_id, id, effective_verdict),
            CONSTRAINT evaluations_author CHECK (overridden_by <> experiment_created_by),
            CHECK (num_nulls(override_verdict, override_reason, overridden_by, override_time) IN (0, 4)),
            FOREIGN KEY (tenant_id, experiment_id, experiment_created_by)
                REFERENCES experiments (tenant_id, id, created_by))
        """
    )
    op.execute("CREATE INDEX evaluations_page ON evaluations (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX evaluations_newest ON evaluations (tenant_id, id DESC)")
    op.execute(
        """
        CREATE FUNCTION evaluations_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF OLD.override_verdict IS NOT NULL THEN
                PERFORM refuse('evaluations_overridden', 'an evaluation is overridden once');
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute("CREATE TRIGGER guard BEFORE UPDATE ON evaluations FOR EACH ROW EXECUTE FUNCTION evaluations_guard()")
    op.execute(
        "CREATE TRIGGER frozen BEFORE UPDATE ON evaluations FOR EACH ROW EXECUTE FUNCTION frozen('override_verdict',"
        " 'override_reason', 'overridden_by', 'override_time', 'revision', 'effective_verdict', 'evaluated_by')"
    )
    _no_removal("evaluations")
    protect(
        "evaluations",
        APP,
        "SELECT, INSERT (tenant_id, experiment_id, experiment_created_by, project_id, configuration_hash,"
        " dataset_digest, baseline_revision, metrics, gates, verdict, confidence, seed, created_by),"
        " UPDATE (override_verdict, override_reason, overridden_by, override_time, revision)",
    )


def _promotions() -> None:
    _transitions("promotion_transitions", PROMOTION_TRANSITIONS)
    op.execute(
        f"""
        CREATE TABLE promotions (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL, project_id uuid NOT NULL,
            experiment_id uuid NOT NULL, evaluation_id uuid NOT NULL,
            from_version_id uuid NOT NULL, to_version_id uuid, configuration_hash text NOT NULL,
            subject jsonb NOT NULL, subject_digest text NOT NULL CHECK (subject_digest {HEX}),
            previous_state text NOT NULL DEFAULT 'new', state text NOT NULL DEFAULT 'pending',
            reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 2000), requested_by uuid NOT NULL,
            required_approvals integer NOT NULL CHECK (required_approvals BETWEEN 1 AND 10),
            policy_decisions jsonb NOT NULL, reject_reason text NOT NULL DEFAULT '', rejected_by text,
            approver_id uuid, expire_time timestamptz NOT NULL, begin_time timestamptz, promote_time timestamptz,
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now(),
            -- While it is approved its configuration is not blocked; while it is not rejected its evaluation passes.
            must_be boolean GENERATED ALWAYS AS (CASE WHEN state = 'approved' THEN false END) STORED,
            must_pass text GENERATED ALWAYS AS (CASE WHEN state <> 'rejected' THEN 'pass' END) STORED,
            CONSTRAINT promotions_transition FOREIGN KEY (previous_state, state) REFERENCES promotion_transitions,
            CONSTRAINT promotions_unblocked FOREIGN KEY (tenant_id, configuration_hash, must_be)
                REFERENCES configurations (tenant_id, configuration_hash, blocked),
            CONSTRAINT promotions_passed FOREIGN KEY (tenant_id, evaluation_id, must_pass)
                REFERENCES evaluations (tenant_id, id, effective_verdict),
            FOREIGN KEY (tenant_id, configuration_hash) REFERENCES configurations,
            FOREIGN KEY (tenant_id, evaluation_id) REFERENCES evaluations (tenant_id, id),
            FOREIGN KEY (tenant_id, experiment_id) REFERENCES experiments (tenant_id, id),
            CHECK ((state = 'completed') = (promote_time IS NOT NULL)),
            UNIQUE (tenant_id, id, requested_by), UNIQUE (tenant_id, id, subject_digest))
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX promotions_open ON promotions (tenant_id, project_id)"
        " WHERE state IN ('pending', 'approved')"
    )
    op.execute("CREATE INDEX promotions_page ON promotions (tenant_id, project_id, id DESC)")
    op.execute("CREATE INDEX promotions_newest ON promotions (tenant_id, id DESC)")
    op.execute("CREATE INDEX promotions_hash ON promotions (tenant_id, configuration_hash)")
    op.execute("CREATE INDEX promotions_evaluation ON promotions (tenant_id, evaluation_id)")
    op.execute("CREATE INDEX promotions_due ON promotions (state, expire_time) WHERE state IN ('pending', 'approved')")
    op.execute(
        """
        CREATE FUNCTION promotions_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                NEW.previous_state := 'new'; NEW.state := 'pending'; NEW.revision := 1;
                NEW.begin_time := NULL; NEW.promote_time := NULL; NEW.approver_id := NULL; NEW.reject_reason := '';
                RETURN NEW;
            END IF;
            IF OLD.state IN ('completed', 'rejected') THEN
                PERFORM refuse('promotions_frozen', 'a promotion that has ended never changes');
            END IF;
            NEW.previous_state := CASE WHEN NEW.state = OLD.state THEN OLD.previous_state ELSE OLD.state END;
            IF NEW.state = 'approved' AND OLD.state = 'pending' THEN
                IF EXISTS (SELECT FROM approvals a WHERE a.promotion_id = NEW.id AND NOT a.approve) THEN
                    PERFORM refuse('promotions_objection', 'somebody said no');
                END IF;
                IF (SELECT count(*) FROM approvals a WHERE a.promotion_id = NEW.id AND a.approve
                    AND a.subject_digest = NEW.subject_digest) < NEW.required_approvals THEN
                    PERFORM refuse('promotions_approvals', 'too few people approved');
                END IF;
            END IF;
            IF NEW.state = 'completed' AND OLD.begin_time IS NULL THEN
                PERFORM refuse('promotions_begun', 'a promotion is completed after its completion began');
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE ON promotions FOR EACH ROW EXECUTE FUNCTION promotions_guard()"
    )
    op.execute(
        "CREATE TRIGGER frozen BEFORE UPDATE ON promotions FOR EACH ROW"
        " EXECUTE FUNCTION frozen('previous_state', 'state',"
        " 'reject_reason', 'rejected_by', 'approver_id', 'begin_time', 'promote_time', 'revision', 'update_time',"
        " 'must_be', 'must_pass')"
    )
    _no_removal("promotions")
    protect(
        "promotions",
        APP,
        "SELECT, INSERT, UPDATE (state, reject_reason, rejected_by, approver_id, begin_time, promote_time, revision,"
        " update_time)",
    )


def _approvals() -> None:
    # requested_by and subject_digest are repeated here so that foreign keys can compare them with the promotion's own.
    op.execute(
        """
        CREATE TABLE approvals (
            tenant_id uuid NOT NULL, promotion_id uuid NOT NULL, requested_by uuid NOT NULL, approver_id uuid NOT NULL,
            approve boolean NOT NULL, reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 2000),
            subject_digest text NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT approvals_once PRIMARY KEY (promotion_id, approver_id),
            CONSTRAINT approvals_independent CHECK (NOT approve OR approver_id <> requested_by),
            CONSTRAINT approvals_requester FOREIGN KEY (tenant_id, promotion_id, requested_by)
                REFERENCES promotions (tenant_id, id, requested_by),
            CONSTRAINT approvals_subject FOREIGN KEY (tenant_id, promotion_id, subject_digest)
                REFERENCES promotions (tenant_id, id, subject_digest))
        """
    )
    op.execute(
        """
        CREATE FUNCTION approvals_guard() RETURNS trigger
        LANGUAGE plpgsql SET search_path = experiments, pg_temp AS $$
        DECLARE promotion promotions;
        BEGIN
            -- Locked, so that approvals, rejections and the blacklist come one after the other.
            SELECT * INTO promotion FROM promotions WHERE id = NEW.promotion_id FOR UPDATE;
            IF promotion.state <> 'pending' OR (NEW.approve AND promotion.expire_time <= now()) THEN
                PERFORM refuse('approvals_pending', 'only a pending promotion is decided on');
            END IF;
            IF NEW.approve AND EXISTS (SELECT FROM evaluations e WHERE e.id = promotion.evaluation_id
                                       AND e.overridden_by = NEW.approver_id) THEN
                PERFORM refuse('approvals_independent', 'who overrode the evaluation does not approve');
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute("CREATE TRIGGER guard BEFORE INSERT ON approvals FOR EACH ROW EXECUTE FUNCTION approvals_guard()")
    _append_only("approvals")
    protect("approvals", APP, "SELECT, INSERT")


def _comparison_reports() -> None:
    op.execute(
        """
        CREATE TABLE comparison_reports (
            id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL, experiment_id uuid NOT NULL,
            evaluation_id uuid NOT NULL, production_version_id uuid NOT NULL, dataset_id uuid NOT NULL,
            both_correct integer NOT NULL, only_candidate_correct integer NOT NULL,
            only_production_correct integer NOT NULL, both_wrong integer NOT NULL,
            difference numeric NOT NULL, lower_bound numeric NOT NULL, upper_bound numeric NOT NULL,
            p_value numeric NOT NULL CHECK (p_value BETWEEN 0 AND 1),
            recommendation text NOT NULL CHECK (recommendation IN ('pass', 'fail', 'manual_review')),
            confidence numeric(6, 5) NOT NULL CHECK (confidence BETWEEN 0 AND 1),
            create_time timestamptz NOT NULL DEFAULT now(),
            UNIQUE (tenant_id, evaluation_id),
            FOREIGN KEY (tenant_id, evaluation_id) REFERENCES evaluations (tenant_id, id),
            FOREIGN KEY (tenant_id, experiment_id, dataset_id) REFERENCES experiments (tenant_id, id, dataset_id))
        """
    )
    op.execute("CREATE INDEX comparison_reports_page ON comparison_reports (tenant_id, experiment_id, id DESC)")
    op.execute("CREATE INDEX comparison_reports_newest ON comparison_reports (tenant_id, id DESC)")
    _append_only("comparison_reports")
    protect("comparison_reports", APP, "SELECT, INSERT")


def _reconciliation() -> None:
    # The service sees one tenant at a time; its background loop must find open promotions of all. This function says
    # where there is work, as two ids and nothing else. It runs as the owner, whom the policy shows open ones only.
    op.execute(
        f"CREATE POLICY reconciliation ON promotions FOR SELECT TO {OWNER} USING (state IN ('pending', 'approved'))"
    )
    op.execute(
        """
        CREATE FUNCTION due_promotions(most integer) RETURNS TABLE (tenant_id uuid, promotion_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = experiments, pg_temp AS $$
            SELECT p.tenant_id, p.id FROM promotions p
            WHERE p.state = 'approved' OR (p.state = 'pending' AND p.expire_time <= now())
            ORDER BY p.update_time LIMIT most
        $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION due_promotions(integer) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION due_promotions(integer) TO {APP}")
