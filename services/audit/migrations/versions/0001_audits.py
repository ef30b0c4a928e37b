"""The log, its tree, its checkpoints, and what keeps all of them from being changed.

The kit's tables are not here: audit writes no outbox, and its one mutation is idempotent by event id.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0001"
down_revision = None
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"


def upgrade() -> None:
    _log()
    _tree()
    _guards()
    _partitions()
    _news()
    _views()


def _log() -> None:
    # `id` is called seq (from 0, without gaps) and `ts` recorded_at; the signature of a row is in the view signed_log.
    # `body` is what was hashed. payload and prev_hash are computed from it, so they cannot say anything else.
    op.execute(
        """
        CREATE TABLE audit_log (
            tenant_id uuid NOT NULL,
            seq bigint NOT NULL CHECK (seq >= 0),
            recorded_at timestamptz NOT NULL,
            event_id uuid NOT NULL,
            source text NOT NULL CHECK (length(source) <= 32),
            source_seq bigint NOT NULL CHECK (source_seq >= 1),
            entity text NOT NULL CHECK (length(entity) <= 200),
            action text NOT NULL CHECK (length(action) <= 120),
            actor_kind text NOT NULL CHECK (actor_kind IN ('user', 'agent', 'service')),
            actor_id text NOT NULL CHECK (length(actor_id) <= 64),
            correlation_id text NOT NULL CHECK (length(correlation_id) <= 128),
            occurred_at timestamptz NOT NULL,
            leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
            body text NOT NULL,
            payload jsonb GENERATED ALWAYS AS ((body::jsonb) -> 'payload') STORED,
            prev_hash text GENERATED ALWAYS AS ((body::jsonb) ->> 'prev_hash') VIRTUAL,
            PRIMARY KEY (tenant_id, seq, recorded_at)
        ) PARTITION BY RANGE (recorded_at)
        """
    )
    # recorded_at grows strictly with seq, so one index serves filter, period and order.
    for column in ("entity", "action", "actor_id", "correlation_id"):
        op.execute(f"CREATE INDEX audit_log_{column} ON audit_log (tenant_id, {column}, recorded_at)")
    op.execute("CREATE INDEX audit_log_recorded_at ON audit_log (tenant_id, recorded_at)")
    # Unique keys of a partitioned table must contain the partition key; those that matter are here.
    op.execute(
        """
        CREATE TABLE dedup (
            tenant_id uuid NOT NULL,
            event_id uuid NOT NULL,
            seq bigint NOT NULL,
            recorded_at timestamptz NOT NULL,
            content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
            PRIMARY KEY (tenant_id, event_id),
            CONSTRAINT dedup_seq UNIQUE (tenant_id, seq))
        """
    )
    op.execute(
        """
        CREATE TABLE head (
            tenant_id uuid PRIMARY KEY,
            size bigint NOT NULL CHECK (size >= 0),
            last_leaf bytea NOT NULL CHECK (octet_length(last_leaf) = 32),
            recorded_at timestamptz NOT NULL,
            own_seq bigint NOT NULL CHECK (own_seq >= 0))
        """
    )
    protect("audit_log", APP, "SELECT, INSERT")
    protect("dedup", APP, "SELECT, INSERT")
    protect("head", APP, "SELECT, INSERT, UPDATE (size, last_leaf, recorded_at, own_seq)")


def _tree() -> None:
    op.execute(
        """
        CREATE TABLE tiles (
            tenant_id uuid NOT NULL,
            level smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
            idx bigint NOT NULL CHECK (idx >= 0),
            hashes bytea STORAGE EXTERNAL NOT NULL
                CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
            PRIMARY KEY (tenant_id, level, idx))
        """
    )
    op.execute(
        """
        CREATE TABLE checkpoints (
            tenant_id uuid NOT NULL,
            size bigint NOT NULL CHECK (size > 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            note text NOT NULL,
            signature bytea NOT NULL CHECK (octet_length(signature) = 64),
            key_version integer NOT NULL,
            public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
            sign_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, size))
        """
    )
    protect("tiles", APP, "SELECT, INSERT, UPDATE (hashes)")
    protect("checkpoints", APP, "SELECT, INSERT")


def _guards() -> None:
    """Triggers that hold for everybody, `session_replication_role = replica` included (ENABLE ALWAYS)."""
    op.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            RAISE EXCEPTION 'audits.%: % is refused; the log only grows', tg_table_name, tg_op
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION grow_head() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF NEW.tenant_id <> OLD.tenant_id OR NEW.size <= OLD.size OR NEW.recorded_at <= OLD.recorded_at
               OR NEW.own_seq < OLD.own_seq THEN
                RAISE EXCEPTION 'audits.head: a log only grows' USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION grow_tile() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF (NEW.tenant_id, NEW.level, NEW.idx) <> (OLD.tenant_id, OLD.level, OLD.idx)
               OR octet_length(NEW.hashes) <= octet_length(OLD.hashes)
               OR substring(NEW.hashes FROM 1 FOR octet_length(OLD.hashes)) <> OLD.hashes THEN
                RAISE EXCEPTION 'audits.tiles: a tile only grows' USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    for table in ("audit_log", "dedup", "checkpoints"):
        _always(table, "no_change", "BEFORE UPDATE OR DELETE", "FOR EACH ROW EXECUTE FUNCTION refuse()")
    for table, grow in {"head": "grow_head", "tiles": "grow_tile"}.items():
        _always(table, "only_growth", "BEFORE UPDATE", f"FOR EACH ROW EXECUTE FUNCTION {grow}()")
        _always(table, "no_deletion", "BEFORE DELETE", "FOR EACH ROW EXECUTE FUNCTION refuse()")
    for table in ("audit_log", "dedup", "checkpoints", "head", "tiles"):
        _always(table, "no_truncation", "BEFORE TRUNCATE", "FOR EACH STATEMENT EXECUTE FUNCTION refuse()")


def _always(table: str, name: str, moment: str, act: str) -> None:
    op.execute(f"CREATE TRIGGER {name} {moment} ON {table} {act}")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _partitions() -> None:
    """One partition per month of recorded_at, and none for the rest: a clock far ahead finds no place to write to.

    A partition is made apart and attached, which does not stop writers. Row triggers come with attaching; the TRUNCATE
    trigger does not, so each partition gets its own. Row-level security without a policy closes the direct way in, for
    the owner too; what comes through audit_log meets the policies of audit_log.
    """
    op.execute(
        """
        CREATE FUNCTION create_partitions(ahead integer) RETURNS SETOF text
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
        DECLARE
            month timestamptz;
            part text;
        BEGIN
            IF ahead NOT BETWEEN 0 AND 12 THEN
                RAISE EXCEPTION 'partitions are made 0 to 12 months ahead, not %', ahead;
            END IF;
            PERFORM pg_advisory_xact_lock(hashtext('audits.create_partitions'));
            FOR n IN 0..ahead LOOP
                month := date_trunc('month', now(), 'UTC') + make_interval(months => n);
                part := 'audit_log_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
                CONTINUE WHEN EXISTS (SELECT FROM pg_class
                    WHERE relname = part AND relnamespace = 'audits'::regnamespace);
                EXECUTE format('CREATE TABLE audits.%I (LIKE audits.audit_log INCLUDING ALL EXCLUDING INDEXES)', part);
                EXECUTE format('CREATE TRIGGER no_truncation BEFORE TRUNCATE ON audits.%I'
                    ' FOR EACH STATEMENT EXECUTE FUNCTION audits.refuse()', part);
                EXECUTE format('ALTER TABLE audits.%I ENABLE ALWAYS TRIGGER no_truncation', part);
                EXECUTE format('ALTER TABLE audits.%I ENABLE ROW LEVEL SECURITY', part);
                EXECUTE format('ALTER TABLE audits.%I FORCE ROW LEVEL SECURITY', part);
                EXECUTE format('ALTER TABLE audits.audit_log ATTACH PARTITION audits.%I FOR VALUES FROM (%L) TO (%L)',
                    part, month, month + interval '1 month');
                RETURN NEXT part;
            END LOOP;
        END $$
        """
    )
    _only_app("create_partitions(integer)")
    op.execute("SELECT create_partitions(3)")


def _news() -> None:
    """Tell the signer which logs have entries that no checkpoint covers; the only thing that is seen across tenants."""
    for table in ("head", "checkpoints"):
        op.execute(f"CREATE POLICY news ON {table} FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION logs_with_news() RETURNS TABLE (tenant_id uuid, size bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT h.tenant_id, h.size FROM audits.head h
            WHERE h.size > 0 AND NOT EXISTS (SELECT FROM audits.checkpoints c
                WHERE c.tenant_id = h.tenant_id AND c.size >= h.size)
        $$
        """
    )
    _only_app("logs_with_news()")


def _only_app(function: str) -> None:
    op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")


def _views() -> None:
    """For people with SQL: the log with the signature that covers each row, and counts. A reader sees what they may."""
    op.execute(
        """
        CREATE VIEW signed_log WITH (security_invoker = true) AS
        SELECT l.seq AS id, l.tenant_id, l.entity, l.action, l.actor_id, l.payload, c.signature,
               c.size AS checkpoint_size, l.prev_hash, l.recorded_at AS ts
        FROM audit_log l LEFT JOIN LATERAL (
            SELECT signature, size FROM checkpoints
            WHERE tenant_id = l.tenant_id AND size > l.seq ORDER BY size LIMIT 1) c ON true
        """
    )
    op.execute(
        """
        CREATE VIEW statistics WITH (security_invoker = true) AS
        SELECT tenant_id, date_trunc('day', recorded_at, 'UTC') AS day, source, action, count(*) AS events,
               count(DISTINCT actor_id) AS actors
        FROM audit_log GROUP BY 1, 2, 3, 4
        """
    )
    op.execute(f"GRANT SELECT ON signed_log, statistics TO {APP}")
