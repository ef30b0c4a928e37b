"""What an operator's override of a broken anchor vouches for: one state of the database, and what follows.

`overrides` tells of no tenant. `breaks` holds, for each log that was shorter than the super-log lists, the sizes that
are void: what was listed and signed of them was of entries that are gone, and they are never signed a second time.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0005"
down_revision = "0004"
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"
SYSTEM = "00000000-0000-0000-0000-000000000000"
SUPER = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def upgrade() -> None:
    _overrides()
    _breaks()
    _views()
    _functions()


def _overrides() -> None:
    op.execute(
        """
        CREATE TABLE overrides (
            number bigint PRIMARY KEY CHECK (number > 0),
            token text NOT NULL UNIQUE CHECK (length(token) BETWEEN 1 AND 64),
            epoch integer NOT NULL CHECK (epoch > 0),
            follows text NOT NULL CHECK (length(follows) <= 400),
            super_size bigint NOT NULL CHECK (super_size >= 0),
            super_root bytea NOT NULL CHECK (octet_length(super_root) = 32),
            state text NOT NULL,
            event_id uuid NOT NULL,
            accept_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute(f"GRANT SELECT, INSERT ON overrides TO {APP}")
    _only_growing("overrides")
    # An operator's override of an earlier version is known by the name of the super-log alone.
    op.execute(
        f"""
        INSERT INTO overrides (number, token, epoch, follows, super_size, super_root, state, event_id)
        SELECT 1, 'before overrides were kept', substring(c.note FROM '^[^\\n]*/super/([0-9]+)\\n')::integer, '',
            c.size, c.root, 'of a version that did not keep them', gen_random_uuid()
        FROM checkpoints c
        WHERE c.tenant_id = '{SUPER}' AND c.note ~ '^[^\\n]*/super/[0-9]+\\n' ORDER BY c.size DESC LIMIT 1
        """
    )
    # Only the service writes one. Keys are checked as the owner, with a lock for which a right to update is asked.
    op.execute("ALTER TABLE overrides ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE overrides FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY service ON overrides TO {APP} USING (true) WITH CHECK (true)")
    op.execute(f"CREATE POLICY functions ON overrides FOR SELECT TO {OWNER} USING (true)")
    op.execute(f"CREATE POLICY keys ON overrides FOR UPDATE TO {OWNER} USING (true)")


def _breaks() -> None:
    op.execute(
        """
        CREATE TABLE breaks (
            tenant_id uuid NOT NULL,
            number bigint NOT NULL REFERENCES overrides,
            kept bigint NOT NULL CHECK (kept >= 0),
            listed bigint NOT NULL,
            event_id uuid NOT NULL,
            PRIMARY KEY (tenant_id, number),
            CONSTRAINT breaks_range CHECK (kept < listed))
        """
    )
    protect("breaks", APP, "SELECT, INSERT")
    all_logs = f"nullif(current_setting('app.tenant', true), '')::uuid IN ('{SYSTEM}', '{SUPER}')"
    op.execute(f"CREATE POLICY system ON breaks TO {APP} USING ({all_logs}) WITH CHECK ({all_logs})")
    op.execute(f"CREATE POLICY functions ON breaks FOR SELECT TO {OWNER} USING (true)")
    _only_growing("breaks")


def _only_growing(table: str) -> None:
    for name, moment, each in (
        ("no_change", "BEFORE UPDATE OR DELETE", "ROW"),
        ("no_truncation", "BEFORE TRUNCATE", "STATEMENT"),
    ):
        op.execute(f"CREATE TRIGGER {name} {moment} ON {table} FOR EACH {each} EXECUTE FUNCTION refuse()")
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _views() -> None:
    """A checkpoint of a size that is void covers nothing."""
    op.execute(
        """
        CREATE OR REPLACE VIEW signed_log WITH (security_invoker = true) AS
        SELECT l.seq AS id, l.tenant_id, l.entity, l.action, l.actor_id, l.payload, c.signature,
               c.size AS checkpoint_size, l.prev_hash, l.recorded_at AS ts
        FROM audit_log l LEFT JOIN LATERAL (
            SELECT k.signature, k.size FROM checkpoints k
            WHERE k.tenant_id = l.tenant_id AND k.size > l.seq AND NOT EXISTS (SELECT FROM breaks b
                WHERE b.tenant_id = k.tenant_id AND k.size > b.kept AND k.size <= b.listed)
            ORDER BY k.size LIMIT 1) c ON true
        """
    )


def _functions() -> None:
    """A log that is shorter than listed, as an operator accepted it, is not behind; shorter than that, it is again."""
    op.execute(
        """
        CREATE OR REPLACE FUNCTION logs_behind() RETURNS TABLE (tenant_id uuid, size bigint, listed bigint)
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
            WHERE coalesce(h.size, 0) < newest.size AND NOT EXISTS (SELECT FROM audits.breaks b
                WHERE b.tenant_id = logs.tenant_id AND b.listed >= newest.size AND b.kept <= coalesce(h.size, 0))
        $$
        """
    )
    # Every log as it stands, signed or not: a few hashes that name one state of the whole database.
    op.execute(
        f"""
        CREATE FUNCTION state_of_logs() RETURNS text
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT count(*) || ' ' || coalesce(sum(h.size), 0) || ' ' || encode(sha256(convert_to(coalesce(string_agg(
                h.tenant_id || ' ' || h.size || ' ' || encode(h.last_leaf, 'hex'), E'\\n' ORDER BY h.tenant_id),
                ''), 'UTF8')), 'hex')
            FROM audits.head h WHERE h.tenant_id <> '{SUPER}'
        $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION state_of_logs() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION state_of_logs() TO {APP}")
