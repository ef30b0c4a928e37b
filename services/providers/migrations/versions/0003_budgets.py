"""Budgets of tenants, uses without a reservation, acknowledged alerts, and the health of providers."""

from alembic import op

from services.kit.migrations import protect

revision = "0003"
down_revision = "0002"
APP = "triptych_providers_app"
OWNER = "triptych_providers_owner"
MONEY = "numeric(20,12)"
WHOSE = """
    tenant_id uuid NOT NULL,
    owner_kind text NOT NULL CHECK (owner_kind IN ('user', 'agent', 'service')),
    owner_id text NOT NULL CHECK (length(owner_id) BETWEEN 1 AND 64)"""


def upgrade() -> None:
    _create_configs()
    _extend_reservations()
    _extend_ledger()
    _extend_alerts()
    _create_health()
    _create_sweeps()


def _create_configs() -> None:
    # `epoch` is for the counters of the whole tenant what that of user_quotas is for those of an owner.
    op.execute(
        f"""
        CREATE TABLE tenant_ai_config (
            tenant_id uuid PRIMARY KEY,
            ai_enabled boolean NOT NULL DEFAULT true,
            daily_requests bigint CHECK (daily_requests >= 0), monthly_requests bigint CHECK (monthly_requests >= 0),
            daily_tokens bigint CHECK (daily_tokens >= 0), monthly_tokens bigint CHECK (monthly_tokens >= 0),
            daily_cost_usd {MONEY} CHECK (daily_cost_usd >= 0), monthly_cost_usd {MONEY} CHECK (monthly_cost_usd >= 0),
            platform_key_allowed boolean NOT NULL DEFAULT false,
            local_fallback_allowed boolean NOT NULL DEFAULT false,
            tier_overrides jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(tier_overrides) = 'array'),
            price_overrides jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(price_overrides) = 'array'),
            epoch bigint NOT NULL DEFAULT 1,
            revision integer NOT NULL DEFAULT 0,
            create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now())
        """
    )
    protect("tenant_ai_config", APP, "SELECT, INSERT, UPDATE")
    op.execute("ALTER TABLE user_quotas ADD COLUMN concurrent_requests bigint CHECK (concurrent_requests >= 0)")


def _extend_reservations() -> None:
    op.execute("ALTER TABLE reservations ADD COLUMN invocation_id uuid")
    # One call of a request_id at a time: whoever comes second meets this index, until the first is settled.
    op.execute(
        "CREATE UNIQUE INDEX reservations_invocation ON reservations"
        " (tenant_id, owner_kind, owner_id, invocation_id) WHERE state = 'held'"
    )
    op.execute("CREATE INDEX reservations_recent ON reservations USING brin (create_time)")


def _extend_ledger() -> None:
    op.execute("ALTER TABLE usage_events ALTER COLUMN reservation_id DROP NOT NULL")
    op.execute("ALTER TABLE usage_events ADD COLUMN record_id uuid, ADD COLUMN model_name text")
    for table, verbs in {"usage_events": "ALL", "providers": "SELECT"}.items():
        op.execute(f"CREATE POLICY upgrade ON {table} FOR {verbs} TO {OWNER} USING (true)")
    op.execute("UPDATE usage_events e SET model_name = p.model_name FROM providers p WHERE p.id = e.provider_id")
    for table in ("usage_events", "providers"):
        op.execute(f"DROP POLICY upgrade ON {table}")
    op.execute(
        """
        ALTER TABLE usage_events ALTER COLUMN model_name SET NOT NULL,
            ADD CONSTRAINT usage_events_source CHECK (num_nonnulls(reservation_id, record_id) = 1)
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX usage_events_record ON usage_events (tenant_id, owner_kind, owner_id, record_id)"
        " WHERE record_id IS NOT NULL"
    )
    # The ledger is written in thousands of rows: what it need not have, it has not. Price versions are never deleted,
    # so a row need not look for its own; and a row without a reservation has no place in that index.
    op.execute("ALTER TABLE usage_events DROP CONSTRAINT usage_events_price_version_id_fkey")
    op.execute("ALTER TABLE usage_events DROP CONSTRAINT usage_events_once")
    op.execute(
        "CREATE UNIQUE INDEX usage_events_once ON usage_events (tenant_id, owner_kind, owner_id, reservation_id)"
        " WHERE reservation_id IS NOT NULL"
    )
    op.execute("CREATE INDEX usage_events_page ON usage_events (tenant_id, day, id)")
    # Uses that the counters were not told of yet. A row goes when they were; for one that stays they are rebuilt.
    op.execute(
        f"""
        CREATE TABLE usage_charges (
            id uuid PRIMARY KEY DEFAULT uuidv7(), {WHOSE}, create_time timestamptz NOT NULL DEFAULT now())
        """
    )
    protect("usage_charges", APP, "SELECT, INSERT, DELETE")


def _extend_alerts() -> None:
    op.execute(
        """
        ALTER TABLE cost_alerts DROP CONSTRAINT cost_alerts_owner_kind_check,
            ADD CONSTRAINT cost_alerts_owner_kind CHECK (owner_kind IN ('user', 'agent', 'service', 'tenant')),
            ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            ADD COLUMN acknowledger_kind text, ADD COLUMN acknowledger_id text,
            ADD CONSTRAINT cost_alerts_acknowledger
                CHECK (num_nonnulls(acknowledge_time, acknowledger_kind, acknowledger_id) IN (0, 3))
        """
    )
    op.execute("CREATE INDEX cost_alerts_watch ON cost_alerts (tenant_id, xid, id)")
    op.execute(f"GRANT UPDATE (acknowledge_time, acknowledger_kind, acknowledger_id) ON cost_alerts TO {APP}")


def _create_health() -> None:
    op.execute(
        """
        CREATE TABLE provider_health (
            tenant_id uuid NOT NULL, provider_id uuid NOT NULL,
            state text NOT NULL DEFAULT 'unknown'
                CONSTRAINT provider_health_state CHECK (state IN ('unknown', 'healthy', 'degraded', 'unhealthy')),
            consecutive_failures integer NOT NULL DEFAULT 0, consecutive_successes integer NOT NULL DEFAULT 0,
            problem text NOT NULL DEFAULT '' CHECK (length(problem) <= 200),
            latency_ms integer NOT NULL DEFAULT 0,
            check_time timestamptz, success_time timestamptz, failure_time timestamptz,
            change_time timestamptz NOT NULL DEFAULT now(),
            due_time timestamptz NOT NULL DEFAULT now(),
            revision integer NOT NULL DEFAULT 1,
            PRIMARY KEY (tenant_id, provider_id),
            FOREIGN KEY (tenant_id, provider_id) REFERENCES providers (tenant_id, id))
        """
    )
    op.execute("CREATE INDEX provider_health_due ON provider_health (due_time)")
    protect("provider_health", APP, "SELECT, INSERT, UPDATE")


def _create_sweeps() -> None:
    # Background loops work tenant by tenant under row-level security; these functions tell them in which there is work.
    for table in ("usage_charges", "provider_health", "providers"):
        op.execute(f"CREATE POLICY budgets_sweep ON {table} FOR SELECT TO {OWNER} USING (true)")
    _create_function(
        "tenants_with_due_reservations()",
        """
        SELECT tenant_id FROM reservations WHERE state = 'held' AND expire_time < now()
        UNION
        SELECT tenant_id FROM reservations
        WHERE state = 'committed' AND NOT counted AND settle_time < now() - interval '5 seconds'
        UNION
        SELECT tenant_id FROM usage_charges WHERE create_time < now() - interval '5 seconds'
        """,
    )
    _create_function(
        "tenants_with_recent_reservations()",
        "SELECT DISTINCT tenant_id FROM reservations WHERE create_time > now() - interval '1 hour'",
    )
    # A provider is looked at one interval after it was added, not at once: many are added together.
    _create_function(
        "tenants_with_due_checks(delay interval)",
        """
        SELECT DISTINCT p.tenant_id FROM providers p
        LEFT JOIN provider_health h ON h.tenant_id = p.tenant_id AND h.provider_id = p.id
        WHERE p.active
          AND CASE WHEN h.provider_id IS NULL THEN p.create_time < now() - delay ELSE h.due_time < now() END
        LIMIT 100
        """,
    )


def _create_function(signature: str, body: str) -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION {signature} RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER"
        f" SET search_path = providers, pg_temp AS $$ {body} $$"
    )
    op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {APP}")
