"""The super-log, what witnesses signed over it, and the states that the guards of the schema were in.

`payload` is computed when it is read, no longer stored: half of the cost of an append was writing it a second time, and
what is not stored cannot be changed. That a body is a JSON object is checked instead.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0002"
down_revision = "0001"
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"
SUPER = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""Whose head, tiles and checkpoints those of the super-log are; no tenant can have this id."""


def upgrade() -> None:
    _payload()
    _super_log()
    _guard_states()
    _functions()


def _payload() -> None:
    op.execute("DROP VIEW signed_log")
    op.execute("ALTER TABLE audit_log DROP COLUMN payload")
    op.execute(
        "ALTER TABLE audit_log ADD COLUMN payload jsonb GENERATED ALWAYS AS ((body::jsonb) -> 'payload') VIRTUAL,"
        " ADD CONSTRAINT audit_log_body CHECK (body IS JSON OBJECT)"
    )
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
    op.execute(f"GRANT SELECT ON signed_log TO {APP}")


def _super_log() -> None:
    """One leaf per statement "this log has so many entries with this root". A tenant sees those of its own log."""
    op.execute(
        """
        CREATE TABLE heads (
            seq bigint PRIMARY KEY CHECK (seq >= 0),
            tenant_id uuid NOT NULL,
            size bigint NOT NULL CHECK (size > 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            CONSTRAINT heads_size UNIQUE (tenant_id, size))
        """
    )
    op.execute(
        """
        CREATE TABLE cosignatures (
            tenant_id uuid NOT NULL,
            size bigint NOT NULL,
            witness text NOT NULL CHECK (length(witness) BETWEEN 1 AND 128),
            public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
            signature bytea NOT NULL CHECK (octet_length(signature) = 64),
            cosign_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, size, witness))
        """
    )
    protect("heads", APP, "SELECT, INSERT")
    protect("cosignatures", APP, "SELECT, INSERT")
    lists = f"nullif(current_setting('app.tenant', true), '')::uuid = '{SUPER}'"
    op.execute(f"CREATE POLICY super ON heads TO {APP} USING ({lists}) WITH CHECK ({lists})")
    op.execute(f"CREATE POLICY news ON heads FOR SELECT TO {OWNER} USING (true)")
    for table in ("heads", "cosignatures"):
        _only_growing(table)


def _guard_states() -> None:
    """What guarded the schema, each time it was found to be different. It tells of no tenant."""
    op.execute(
        """
        CREATE TABLE guard_states (
            number bigint PRIMARY KEY CHECK (number > 0),
            hash bytea NOT NULL CHECK (octet_length(hash) = 32),
            facts text NOT NULL,
            record_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute(f"GRANT SELECT, INSERT ON guard_states TO {APP}")
    _only_growing("guard_states")


def _only_growing(table: str) -> None:
    for name, moment, each in (
        ("no_change", "BEFORE UPDATE OR DELETE", "ROW"),
        ("no_truncation", "BEFORE TRUNCATE", "STATEMENT"),
    ):
        op.execute(f"CREATE TRIGGER {name} {moment} ON {table} FOR EACH {each} EXECUTE FUNCTION refuse()")
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _functions() -> None:
    """What is seen across tenants: that a log has news, and that it is shorter than the super-log says. No content."""
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION logs_with_news() RETURNS TABLE (tenant_id uuid, size bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT h.tenant_id, h.size FROM audits.head h
            WHERE h.size > 0 AND h.tenant_id <> '{SUPER}' AND NOT EXISTS (SELECT FROM audits.checkpoints c
                WHERE c.tenant_id = h.tenant_id AND c.size >= h.size)
        $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION unlisted_heads(most integer) RETURNS TABLE (tenant_id uuid, size bigint, root bytea)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT h.tenant_id, c.size, c.root FROM audits.head h CROSS JOIN LATERAL (
                SELECT s.size, s.root FROM audits.checkpoints s
                WHERE s.tenant_id = h.tenant_id ORDER BY s.size DESC LIMIT 1) c
            WHERE h.tenant_id <> '{SUPER}' AND NOT EXISTS (SELECT FROM audits.heads l
                WHERE l.tenant_id = h.tenant_id AND l.size >= c.size)
            ORDER BY h.tenant_id LIMIT most
        $$
        """
    )
    # One look into the index per log, however many times each was listed.
    op.execute(
        """
        CREATE FUNCTION logs_behind() RETURNS TABLE (tenant_id uuid, size bigint, listed bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            WITH RECURSIVE logs AS (
                (SELECT l.tenant_id FROM audits.heads l ORDER BY l.tenant_id LIMIT 1)
                UNION ALL
                SELECT (SELECT l.tenant_id FROM audits.heads l
                        WHERE l.tenant_id > logs.tenant_id ORDER BY l.tenant_id LIMIT 1)
                FROM logs WHERE logs.tenant_id IS NOT NULL)
            SELECT logs.tenant_id, coalesce(h.size, 0), newest.size
            FROM logs CROSS JOIN LATERAL (SELECT l.size FROM audits.heads l
                WHERE l.tenant_id = logs.tenant_id ORDER BY l.size DESC LIMIT 1) newest
            LEFT JOIN audits.head h ON h.tenant_id = logs.tenant_id
            WHERE coalesce(h.size, 0) < newest.size
        $$
        """
    )
    for function in ("unlisted_heads(integer)", "logs_behind()"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")
