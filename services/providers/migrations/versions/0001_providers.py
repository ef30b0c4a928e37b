"""Providers and prices, keys, quotas, reservations, the usage ledger and cost alerts."""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
APP = "triptych_providers_app"
OWNER = "triptych_providers_owner"
# Whose a row is: a person or agent (UUID), or a service by its name. A user is not the only owner, hence no user_id.
WHOSE = """
    tenant_id uuid NOT NULL,
    owner_kind text NOT NULL CHECK (owner_kind IN ('user', 'agent', 'service')),
    owner_id text NOT NULL CHECK (length(owner_id) BETWEEN 1 AND 64)"""
IDENTITY = "id uuid PRIMARY KEY DEFAULT uuidv7()"
TIMES = "create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now()"
MONEY = "numeric(20,12)"


def upgrade() -> None:
    create_kit_tables("providers")
    _create_catalogue()
    _create_keys()
    _create_quotas()
    _create_reservations()
    _create_ledger()
    _create_sweep()


def _create_catalogue() -> None:
    op.execute(
        f"""
        CREATE TABLE providers (
            {IDENTITY}, tenant_id uuid NOT NULL,
            name text NOT NULL,
            type text NOT NULL CHECK (type IN ('openai', 'anthropic', 'openai_compatible', 'huggingface', 'local')),
            model_name text NOT NULL CHECK (length(model_name) BETWEEN 1 AND 200),
            api_endpoint text NOT NULL,
            destination_host text NOT NULL,
            active boolean NOT NULL DEFAULT true,
            platform_provided boolean NOT NULL,
            max_tokens integer NOT NULL CHECK (max_tokens > 0),
            timeout_seconds integer NOT NULL CHECK (timeout_seconds > 0),
            revision integer NOT NULL DEFAULT 1, {TIMES},
            UNIQUE (tenant_id, id),
            CONSTRAINT providers_name UNIQUE (tenant_id, name),
            CHECK ((type = 'local') = (api_endpoint = '') AND (type = 'local') = (destination_host = '')))
        """
    )
    # A price is never changed: a new one takes its place, and what was reserved at the old is charged at the old.
    op.execute(
        f"""
        CREATE TABLE price_versions (
            {IDENTITY}, tenant_id uuid NOT NULL, provider_id uuid NOT NULL,
            input_cost_usd_per_1k {MONEY} NOT NULL CHECK (input_cost_usd_per_1k >= 0),
            output_cost_usd_per_1k {MONEY} NOT NULL CHECK (output_cost_usd_per_1k >= 0),
            effective_time timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (tenant_id, provider_id) REFERENCES providers (tenant_id, id))
        """
    )
    op.execute("CREATE INDEX price_versions_newest ON price_versions (tenant_id, provider_id, id DESC)")
    protect("providers", APP, "SELECT, INSERT, UPDATE")
    protect("price_versions", APP, "SELECT, INSERT")


def _create_keys() -> None:
    op.execute(
        f"""
        CREATE TABLE user_providers (
            {IDENTITY}, {WHOSE},
            provider_id uuid NOT NULL,
            label text NOT NULL CHECK (length(label) BETWEEN 1 AND 64),
            last_four text NOT NULL CHECK (length(last_four) = 4),
            state text NOT NULL CHECK (state IN ('active', 'rotating', 'revoked', 'expired')),
            destination_host text NOT NULL,
            encrypted_api_key bytea,
            encrypted_dek text CHECK (encrypted_dek LIKE 'vault:v%'),
            envelope_version smallint NOT NULL DEFAULT 1,
            kek_version integer NOT NULL CHECK (kek_version > 0),
            fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
            validate_time timestamptz NOT NULL,
            expire_time timestamptz, revoke_time timestamptz, last_use_time timestamptz,
            revision integer NOT NULL DEFAULT 1, {TIMES},
            FOREIGN KEY (tenant_id, provider_id) REFERENCES providers (tenant_id, id),
            CONSTRAINT user_providers_live CHECK (
                state NOT IN ('active', 'rotating') OR (encrypted_api_key IS NOT NULL AND encrypted_dek IS NOT NULL)),
            CONSTRAINT user_providers_shredded CHECK (
                state <> 'revoked'
                OR (encrypted_api_key IS NULL AND encrypted_dek IS NULL AND revoke_time IS NOT NULL)))
        """
    )
    whose = "tenant_id, owner_kind, owner_id, provider_id"
    op.execute(f"CREATE UNIQUE INDEX user_providers_label ON user_providers ({whose}, label) WHERE state = 'active'")
    op.execute(
        f"CREATE UNIQUE INDEX user_providers_fingerprint ON user_providers ({whose}, fingerprint)"
        " WHERE state IN ('active', 'rotating')"
    )
    op.execute("CREATE INDEX user_providers_page ON user_providers (tenant_id, id DESC)")
    op.execute(
        f"""
        CREATE TABLE key_attempts (
            {WHOSE}, begin_time timestamptz NOT NULL DEFAULT now(), attempts integer NOT NULL DEFAULT 1,
            PRIMARY KEY (tenant_id, owner_kind, owner_id))
        """
    )
    protect("user_providers", APP, "SELECT, INSERT, UPDATE")
    protect("key_attempts", APP, "SELECT, INSERT, UPDATE")


def _create_quotas() -> None:
    # `epoch` changes whenever counters are rebuilt from the ledger; who reserved under an older one must begin again.
    op.execute(
        f"""
        CREATE TABLE user_quotas (
            {WHOSE},
            role smallint NOT NULL, custom boolean NOT NULL DEFAULT false,
            daily_requests bigint CHECK (daily_requests >= 0), monthly_requests bigint CHECK (monthly_requests >= 0),
            daily_tokens bigint CHECK (daily_tokens >= 0), monthly_tokens bigint CHECK (monthly_tokens >= 0),
            daily_cost_usd {MONEY} CHECK (daily_cost_usd >= 0), monthly_cost_usd {MONEY} CHECK (monthly_cost_usd >= 0),
            epoch bigint NOT NULL DEFAULT 1,
            revision integer NOT NULL DEFAULT 0, {TIMES},
            PRIMARY KEY (tenant_id, owner_kind, owner_id))
        """
    )
    protect("user_quotas", APP, "SELECT, INSERT, UPDATE")


def _create_reservations() -> None:
    op.execute(
        f"""
        CREATE TABLE reservations (
            {IDENTITY}, {WHOSE},
            hold_id uuid NOT NULL,
            provider_id uuid NOT NULL,
            price_version_id uuid NOT NULL REFERENCES price_versions,
            input_cost_usd_per_1k {MONEY} NOT NULL, output_cost_usd_per_1k {MONEY} NOT NULL,
            operation text NOT NULL,
            state text NOT NULL CHECK (state IN ('held', 'committed', 'released', 'expired')),
            day date NOT NULL,
            estimated_tokens bigint NOT NULL CHECK (estimated_tokens >= 0),
            estimated_cost_usd {MONEY} NOT NULL CHECK (estimated_cost_usd >= 0),
            estimated_cost_nano bigint NOT NULL CHECK (estimated_cost_nano >= 0),
            input_tokens bigint, output_tokens bigint, cost_usd {MONEY}, cost_nano bigint,
            counted boolean NOT NULL DEFAULT false,
            expire_time timestamptz NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), settle_time timestamptz,
            FOREIGN KEY (tenant_id, provider_id) REFERENCES providers (tenant_id, id),
            UNIQUE (tenant_id, hold_id),
            CHECK ((state = 'held') = (settle_time IS NULL)),
            CHECK ((state = 'committed') = (cost_usd IS NOT NULL AND cost_nano IS NOT NULL
                                            AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL)))
        """
    )
    op.execute(
        "CREATE INDEX reservations_held ON reservations (tenant_id, owner_kind, owner_id, day) WHERE state = 'held'"
    )
    op.execute("CREATE INDEX reservations_due ON reservations (expire_time) WHERE state = 'held'")
    op.execute(
        "CREATE INDEX reservations_uncounted ON reservations (settle_time) WHERE state = 'committed' AND NOT counted"
    )
    protect("reservations", APP, "SELECT, INSERT, UPDATE")


def _create_ledger() -> None:
    # Nothing in the ledger changes: the app role may not.
    op.execute(
        f"""
        CREATE TABLE usage_events (
            {IDENTITY}, {WHOSE},
            reservation_id uuid NOT NULL REFERENCES reservations,
            provider_id uuid NOT NULL, price_version_id uuid NOT NULL REFERENCES price_versions,
            operation text NOT NULL, day date NOT NULL,
            input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
            cost_usd {MONEY} NOT NULL, cost_nano bigint NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT usage_events_once UNIQUE (tenant_id, owner_kind, owner_id, reservation_id))
        """
    )
    op.execute(
        f"""
        CREATE TABLE usage_tracking (
            {IDENTITY}, {WHOSE},
            provider_id uuid NOT NULL, model_name text NOT NULL, date date NOT NULL,
            request_count bigint NOT NULL, input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
            cost_usd numeric(32, 12) NOT NULL, cost_nano bigint NOT NULL,  -- a day's sum outgrows the ledger's type
            FOREIGN KEY (tenant_id, provider_id) REFERENCES providers (tenant_id, id),
            UNIQUE (tenant_id, owner_kind, owner_id, date, provider_id, model_name))
        """
    )
    op.execute("CREATE INDEX usage_tracking_page ON usage_tracking (tenant_id, date DESC, id DESC)")
    op.execute(
        f"""
        CREATE TABLE cost_alerts (
            {IDENTITY}, {WHOSE},
            quota_window text NOT NULL, threshold_percent smallint NOT NULL CHECK (threshold_percent IN (80, 90, 100)),
            trigger_time timestamptz NOT NULL DEFAULT now(),
            acknowledge_time timestamptz,
            UNIQUE (tenant_id, owner_kind, owner_id, quota_window, threshold_percent))
        """
    )
    protect("usage_events", APP, "SELECT, INSERT")
    protect("usage_tracking", APP, "SELECT, INSERT, UPDATE")
    protect("cost_alerts", APP, "SELECT, INSERT")


def _create_sweep() -> None:
    # The background loop works tenant by tenant under row-level security like everything else; this function tells it
    # in which tenants there is work, and nothing more.
    op.execute(f"CREATE POLICY sweep ON reservations FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION tenants_with_due_reservations() RETURNS SETOF uuid
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = providers, pg_temp AS $$
            SELECT tenant_id FROM reservations WHERE state = 'held' AND expire_time < now()
            UNION
            SELECT tenant_id FROM reservations
            WHERE state = 'committed' AND NOT counted AND settle_time < now() - interval '5 seconds'
        $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION tenants_with_due_reservations() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION tenants_with_due_reservations() TO {APP}")
