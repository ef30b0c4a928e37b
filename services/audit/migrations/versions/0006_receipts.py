"""Tombstones of redactions, what each source says of itself, and openings that are found and expire in small steps.

Only indexes, functions and new tables: nothing that the guards of the log hold is changed.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0006"
down_revision = "0005"
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"
MINE = "nullif(current_setting('app.tenant', true), '')::uuid"


def upgrade() -> None:
    _openings()
    _tombstones()
    _sources()
    _reports()


def _openings() -> None:
    """Find values by an index, and those of a class and tenant in the order of their age."""
    op.execute("CREATE INDEX openings_value ON openings (tenant_id, jsonb_hash_extended(value, 0))")
    op.execute("CREATE INDEX openings_expiry ON openings (retention_class, tenant_id, recorded_at)")
    op.execute("DROP INDEX openings_recorded_at")
    # Equality of jsonb is not leakproof: under row-level security no index of it would be used. Hence a function.
    op.execute(
        f"""
        CREATE FUNCTION openings_with(given jsonb[]) RETURNS TABLE (seq bigint, path text)
        LANGUAGE sql STABLE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
            SELECT o.seq, o.path FROM audits.openings o
            WHERE o.tenant_id = {MINE} AND o.value = ANY (given)
              AND jsonb_hash_extended(o.value, 0) = ANY (ARRAY(SELECT jsonb_hash_extended(v, 0) FROM unnest(given) v))
        $$
        """
    )
    _only_app("openings_with(jsonb[])")
    # One look into the index per tenant, however many values each has.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION logs_with_old_openings(class text, before timestamptz, most integer)
        RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            WITH RECURSIVE logs AS (
                (SELECT o.tenant_id FROM audits.openings o WHERE o.retention_class = class
                 ORDER BY o.tenant_id LIMIT 1)
                UNION ALL
                SELECT (SELECT o.tenant_id FROM audits.openings o
                        WHERE o.retention_class = class AND o.tenant_id > logs.tenant_id
                        ORDER BY o.tenant_id LIMIT 1)
                FROM logs WHERE logs.tenant_id IS NOT NULL)
            SELECT logs.tenant_id FROM logs WHERE EXISTS (SELECT FROM audits.openings o
                WHERE o.retention_class = class AND o.tenant_id = logs.tenant_id AND o.recorded_at < before)
            LIMIT most
        $$
        """
    )


def _tombstones() -> None:
    """Keyed digests of what was erased: what an emitter delivers later of before is dropped. They say nothing else."""
    op.execute(
        """
        CREATE TABLE tombstones (
            tenant_id uuid NOT NULL,
            digest bytea NOT NULL CHECK (octet_length(digest) = 32),
            redact_time timestamptz NOT NULL,
            dropped bigint NOT NULL DEFAULT 0 CHECK (dropped >= 0),
            PRIMARY KEY (tenant_id, digest))
        """
    )
    protect("tombstones", APP, "SELECT, INSERT, UPDATE (redact_time, dropped)")


def _sources() -> None:
    """What came of each source into each log, and what the source says it sent; no evidence, the log is."""
    op.execute(
        """
        CREATE TABLE sources (
            tenant_id uuid NOT NULL,
            source text NOT NULL CHECK (length(source) <= 32),
            events bigint NOT NULL CHECK (events >= 0),
            last_seq bigint NOT NULL CHECK (last_seq >= 0),
            declared_seq bigint NOT NULL DEFAULT 0 CHECK (declared_seq >= 0),
            missing_time timestamptz,
            PRIMARY KEY (tenant_id, source))
        """
    )
    op.execute(
        "CREATE TABLE emitters (source text PRIMARY KEY CHECK (length(source) <= 32), seen_time timestamptz NOT NULL)"
    )
    protect("sources", APP, "SELECT, INSERT, UPDATE (events, last_seq, missing_time)")
    op.execute(f"CREATE POLICY functions ON sources TO {OWNER} USING (true) WITH CHECK (true)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (seen_time) ON emitters TO {APP}")
    # What is in the log, and what its last manifest says of the months that have left it.
    op.execute(
        """
        INSERT INTO sources (tenant_id, source, events, last_seq)
        SELECT tenant_id, source, sum(events), max(last_seq) FROM (
            SELECT tenant_id, source, count(*) AS events, max(source_seq) AS last_seq
            FROM audit_log WHERE source <> 'audit' GROUP BY 1, 2
            UNION ALL
            SELECT m.tenant_id, s.key, (r ->> 1)::bigint - (r ->> 0)::bigint + 1, (r ->> 1)::bigint
            FROM (SELECT DISTINCT ON (tenant_id) tenant_id, sources FROM manifests
                  WHERE state = 'retired' ORDER BY tenant_id, end_seq DESC) m,
                jsonb_each(m.sources) s, jsonb_array_elements(s.value) r WHERE s.key <> 'audit') known
        GROUP BY 1, 2
        """
    )
    op.execute("INSERT INTO emitters SELECT DISTINCT source, now() FROM sources")


def _reports() -> None:
    """What a source reports of all tenants at once, and what the installation's operator sees of all."""
    op.execute(
        """
        CREATE FUNCTION report_source(name text, tenants uuid[], seqs bigint[]) RETURNS void
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            INSERT INTO audits.emitters VALUES (name, now())
            ON CONFLICT (source) DO UPDATE SET seen_time = greatest(emitters.seen_time, excluded.seen_time);
            INSERT INTO audits.sources AS s (tenant_id, source, events, last_seq, declared_seq, missing_time)
            SELECT g.tenant_id, name, 0, 0, g.seq, CASE WHEN g.seq > 0 THEN now() END
            FROM unnest(tenants, seqs) g (tenant_id, seq) ORDER BY 1
            ON CONFLICT (tenant_id, source) DO UPDATE SET
                declared_seq = greatest(s.declared_seq, excluded.declared_seq),
                missing_time = CASE WHEN greatest(s.declared_seq, excluded.declared_seq, s.last_seq) > s.events
                    THEN coalesce(s.missing_time, now()) END;
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION list_sources(after_source text, after_tenant uuid, most integer)
        RETURNS TABLE (source text, tenant_id uuid, events bigint, last_seq bigint, declared_seq bigint,
            missing_time timestamptz, seen_time timestamptz)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT s.source, s.tenant_id, s.events, s.last_seq, s.declared_seq, s.missing_time, e.seen_time
            FROM audits.sources s LEFT JOIN audits.emitters e USING (source)
            WHERE after_source IS NULL OR (s.source, s.tenant_id) > (after_source, after_tenant)
            ORDER BY s.source, s.tenant_id LIMIT most
        $$
        """
    )
    op.execute("CREATE INDEX sources_source ON sources (source, tenant_id)")
    op.execute("CREATE INDEX sources_missing ON sources (source) WHERE missing_time IS NOT NULL")
    op.execute(
        """
        CREATE FUNCTION silent_sources(before timestamptz)
        RETURNS TABLE (source text, seen_time timestamptz, logs bigint, missing bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT e.source, e.seen_time, count(s.tenant_id),
                coalesce(sum(greatest(s.declared_seq, s.last_seq) - s.events), 0)::bigint
            FROM audits.emitters e
            LEFT JOIN audits.sources s ON s.source = e.source AND s.missing_time < before
            GROUP BY 1, 2 ORDER BY 1
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION covering_checkpoints(tenants uuid[], sizes bigint[])
        RETURNS TABLE (tenant_id uuid, size bigint, root bytea, note text, signature bytea, key_version integer,
            public_key bytea, sign_time timestamptz)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT c.* FROM unnest(tenants, sizes) g (tenant_id, size) CROSS JOIN LATERAL (
                SELECT k.tenant_id, k.size, k.root, k.note, k.signature, k.key_version, k.public_key, k.sign_time
                FROM audits.checkpoints k WHERE k.tenant_id = g.tenant_id AND k.size >= g.size
                ORDER BY k.size DESC LIMIT 1) c
        $$
        """
    )
    for function in (
        "report_source(text, uuid[], bigint[])",
        "list_sources(text, uuid, integer)",
        "silent_sources(timestamptz)",
        "covering_checkpoints(uuid[], bigint[])",
    ):
        _only_app(function)


def _only_app(function: str) -> None:
    op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")
