"""Second factors, resets, known devices, revocations, agents, members' standing, badges.

What belongs to a person in the whole installation (factors, devices, resets) has no tenant_id, as users has none.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0002"
down_revision = "0001"
APP = "triptych_auth_app"
OWNER = "triptych_auth_owner"


def upgrade() -> None:
    _people()
    _tenants()
    _members()
    _sessions()
    _factors()
    _proofs()
    _agents()
    _badges()
    _revocations()
    _housekeeping()
    _erasure()


def _people() -> None:
    # token_version goes into access tokens (`ver`): raising it ends those that are out. session_epoch ends sessions, in
    # whatever tenant: a session counts only while its epoch is the person's.
    op.execute(
        """
        ALTER TABLE users
            ADD COLUMN token_version bigint NOT NULL DEFAULT 1,
            ADD COLUMN session_epoch integer NOT NULL DEFAULT 1,
            ADD COLUMN disable_reason text NOT NULL DEFAULT '' CHECK (length(disable_reason) <= 500),
            ADD CONSTRAINT users_settings_size CHECK (octet_length(settings::text) <= 65536)
        """
    )
    changes = (
        "email, email_key, default_tenant_id, disable_time, disable_reason, delete_time, token_version, session_epoch"
    )
    op.execute(f"GRANT UPDATE ({changes}) ON users TO {APP}")


def _tenants() -> None:
    op.execute(
        """
        ALTER TABLE tenants
            ADD COLUMN discord_guild_id text CONSTRAINT tenants_discord_guild UNIQUE CHECK (discord_guild_id <> ''),
            ADD COLUMN telegram_chat_id text CONSTRAINT tenants_telegram_chat UNIQUE CHECK (telegram_chat_id <> ''),
            ADD COLUMN created_by uuid
        """
    )
    # A slug is never given twice and a tenant stays whose it was: the service cannot change them.
    changes = "display_name, tier, settings, discord_guild_id, telegram_chat_id, revision, update_time, delete_time"
    op.execute(f"REVOKE UPDATE ON tenants FROM {APP}")
    op.execute(f"GRANT UPDATE ({changes}) ON tenants TO {APP}")


def _members() -> None:
    op.execute(
        """
        ALTER TABLE memberships
            ADD COLUMN tier smallint NOT NULL DEFAULT 0 CHECK (tier BETWEEN 0 AND 8),
            ADD COLUMN rank integer CHECK (rank >= 1),
            ADD COLUMN place bigint GENERATED ALWAYS AS (coalesce(rank::bigint, 4294967296)) STORED,
            ADD COLUMN activity_score numeric(18, 6) NOT NULL DEFAULT 0 CHECK (activity_score >= 0),
            ADD COLUMN conviction_score numeric(18, 6) NOT NULL DEFAULT 0 CHECK (conviction_score >= 0),
            ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
            ADD COLUMN revision integer NOT NULL DEFAULT 1,
            ADD COLUMN last_seen_time timestamptz,
            ADD COLUMN remove_reason text NOT NULL DEFAULT '' CHECK (length(remove_reason) <= 500)
        """
    )
    # place: a list by rank pages by it. (Under row-level security no index is used for a condition on coalesce().)
    op.execute("CREATE INDEX memberships_rank ON memberships (tenant_id, place, user_id) WHERE remove_time IS NULL")
    op.execute(
        "CREATE INDEX memberships_page ON memberships (tenant_id, create_time DESC, user_id DESC)"
        " WHERE remove_time IS NULL"
    )
    # create_time: who comes back became a member anew.
    changes = (
        "role, tier, rank, activity_score, conviction_score, metadata, revision, last_seen_time, create_time,"
        " update_time, remove_time, remove_reason"
    )
    op.execute(f"GRANT UPDATE ({changes}) ON memberships TO {APP}")
    op.execute(
        """
        CREATE TABLE user_identities (
            tenant_id uuid NOT NULL,
            provider text NOT NULL CHECK (provider IN ('discord', 'telegram', 'wallet')),
            subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
            user_id uuid NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT user_identities_subject PRIMARY KEY (tenant_id, provider, subject),
            FOREIGN KEY (tenant_id, user_id) REFERENCES memberships)
        """
    )
    op.execute("CREATE INDEX user_identities_user ON user_identities (tenant_id, user_id)")
    protect("user_identities", APP, "SELECT, INSERT, DELETE")
    # Rows of other tenants are not seen; a person's own memberships are, by this function and nothing else.
    op.execute(f"CREATE POLICY directory_of_memberships ON memberships FOR SELECT TO {OWNER} USING (true)")
    op.execute(f"CREATE POLICY directory_of_tenants ON tenants FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION tenants_of(person uuid)
        RETURNS TABLE (tenant_id uuid, slug text, display_name text, role text, home boolean)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            SELECT t.id, t.slug, t.display_name, m.role, t.id = u.default_tenant_id
            FROM memberships m JOIN tenants t ON t.id = m.tenant_id JOIN users u ON u.id = m.user_id
            WHERE m.user_id = person AND m.remove_time IS NULL AND t.delete_time IS NULL AND u.delete_time IS NULL
        $$
        """
    )
    # Tenants in which this person is the only admin who can log in.
    op.execute(
        """
        CREATE FUNCTION tenants_led_alone(person uuid) RETURNS SETOF uuid
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            SELECT m.tenant_id FROM memberships m JOIN tenants t ON t.id = m.tenant_id
            WHERE m.user_id = person AND m.role = 'admin' AND m.remove_time IS NULL AND t.delete_time IS NULL
            AND NOT EXISTS (
                SELECT FROM memberships o JOIN users u ON u.id = o.user_id
                WHERE o.tenant_id = m.tenant_id AND o.user_id <> person AND o.role = 'admin' AND o.remove_time IS NULL
                AND u.verified AND u.disable_time IS NULL AND u.delete_time IS NULL)
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION tenants_made_by(person uuid) RETURNS bigint
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            SELECT count(*) FROM tenants WHERE created_by = person
        $$
        """
    )
    for function in ("tenants_of(uuid)", "tenants_led_alone(uuid)", "tenants_made_by(uuid)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")


def _sessions() -> None:
    op.execute(
        """
        ALTER TABLE sessions
            ADD COLUMN session_epoch integer NOT NULL DEFAULT 1,
            ADD COLUMN reauthenticate_time timestamptz,
            ADD COLUMN follows uuid,
            DROP CONSTRAINT sessions_revoke_reason_check,
            ADD CONSTRAINT sessions_revoke_reason_check
                CHECK (revoke_reason IN ('logout', 'reuse', 'revoked', 'credentials', 'removed'))
        """
    )
    op.execute(f"GRANT UPDATE (reauthenticate_time) ON sessions TO {APP}")
    _followers()
    op.execute(
        """
        CREATE TABLE session_activities (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
            kind text NOT NULL
                CHECK (kind IN ('login', 'refresh', 'grace', 'reauthenticate', 'switch_tenant', 'end')),
            ip_address text NOT NULL,
            user_agent text NOT NULL CHECK (length(user_agent) <= 200),
            create_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute("CREATE INDEX session_activities_page ON session_activities (tenant_id, session_id, id DESC)")
    op.execute("CREATE INDEX session_activities_time ON session_activities (create_time)")
    protect("session_activities", APP, "SELECT, INSERT")
    op.execute(f"GRANT SELECT ON audit_logs TO {APP}")
    op.execute(
        """
        CREATE TABLE devices (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            user_id uuid NOT NULL REFERENCES users,
            token_hash bytea NOT NULL CHECK (length(token_hash) = 32),
            failures integer NOT NULL DEFAULT 0,
            create_time timestamptz NOT NULL DEFAULT now(),
            last_use_time timestamptz NOT NULL DEFAULT now(),
            expire_time timestamptz NOT NULL,
            CONSTRAINT devices_token UNIQUE (token_hash))
        """
    )
    op.execute("CREATE INDEX devices_user ON devices (user_id)")
    op.execute("CREATE INDEX devices_expire ON devices (expire_time)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (failures, last_use_time), DELETE ON devices TO {APP}")


def _followers() -> None:
    # A session that SwitchTenant began follows the one that it was called in, and ends with it. They are in different
    # tenants: these functions look across, by id, and give ids and whether sessions go on.
    op.execute("CREATE INDEX sessions_follows ON sessions (follows) WHERE follows IS NOT NULL")
    op.execute(f"CREATE POLICY following ON sessions FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION sessions_before(session uuid) RETURNS SETOF uuid
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            WITH RECURSIVE line (id) AS (
                SELECT session
                UNION SELECT s.follows FROM line JOIN sessions s ON s.id = line.id WHERE s.follows IS NOT NULL)
            SELECT id FROM line
        $$
        """
    )
    # A row that is not there any more has been over for a month.
    op.execute(
        """
        CREATE FUNCTION session_goes_on(session uuid) RETURNS boolean
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
            SELECT NOT EXISTS (
                SELECT FROM sessions_before(session) AS line (id) LEFT JOIN sessions s ON s.id = line.id
                WHERE s.id IS NULL OR s.revoke_time IS NOT NULL)
        $$
        """
    )
    # VOLATILE, and the lock before the look: a switch that goes on meanwhile has committed, and its session is seen, or
    # it waits, and finds the session ended.
    op.execute(
        """
        CREATE FUNCTION sessions_following(ended uuid[]) RETURNS SETOF uuid
        LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = auth, pg_temp AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended('followers:' || person, 0))
            FROM (SELECT DISTINCT user_id::text AS person FROM sessions WHERE id = ANY (ended) ORDER BY 1) AS persons;
            RETURN QUERY
                WITH RECURSIVE line (id) AS (
                    SELECT unnest(ended)
                    UNION SELECT s.id FROM line JOIN sessions s ON s.follows = line.id WHERE s.revoke_time IS NULL)
                SELECT line.id FROM line WHERE line.id <> ALL (ended);
        END $$
        """
    )
    for function in ("sessions_before(uuid)", "session_goes_on(uuid)", "sessions_following(uuid[])"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {APP}")


def _factors() -> None:
    # Document's users.totp_secret is a table of its own: most people have none, and it is never read with a person.
    op.execute(
        """
        CREATE TABLE totp_secrets (
            user_id uuid PRIMARY KEY REFERENCES users,
            sealed_secret text NOT NULL CHECK (sealed_secret LIKE 'vault:%'),
            last_step bigint NOT NULL DEFAULT 0,
            enroll_time timestamptz NOT NULL DEFAULT now(),
            confirm_time timestamptz)
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON totp_secrets TO {APP}")
    op.execute(
        """
        CREATE TABLE recovery_codes (
            user_id uuid NOT NULL REFERENCES users,
            code_hash bytea NOT NULL CHECK (length(code_hash) = 32),
            create_time timestamptz NOT NULL DEFAULT now(),
            use_time timestamptz,
            PRIMARY KEY (user_id, code_hash))
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE (use_time), DELETE ON recovery_codes TO {APP}")
    op.execute(
        """
        CREATE TABLE factor_attempts (
            user_id uuid PRIMARY KEY REFERENCES users,
            failures integer NOT NULL DEFAULT 1,
            begin_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON factor_attempts TO {APP}")
    op.execute(
        """
        CREATE TABLE passkeys (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            user_id uuid NOT NULL REFERENCES users,
            credential_id bytea NOT NULL CHECK (length(credential_id) BETWEEN 1 AND 1023),
            public_key bytea NOT NULL,
            sign_count bigint NOT NULL,
            transports text[] NOT NULL DEFAULT '{}',
            aaguid uuid,
            backed_up boolean NOT NULL,
            display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
            create_time timestamptz NOT NULL DEFAULT now(),
            last_use_time timestamptz,
            CONSTRAINT passkeys_credential UNIQUE (credential_id))
        """
    )
    op.execute("CREATE INDEX passkeys_user ON passkeys (user_id)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (sign_count, backed_up, last_use_time), DELETE ON passkeys TO {APP}")
    op.execute(
        """
        CREATE TABLE passkey_challenges (
            challenge_hash bytea PRIMARY KEY CHECK (length(challenge_hash) = 32),
            purpose text NOT NULL CHECK (purpose IN ('register', 'login')),
            user_id uuid REFERENCES users,
            session_id uuid,
            ticket_id uuid,
            expire_time timestamptz NOT NULL)
        """
    )
    op.execute("CREATE INDEX passkey_challenges_expire ON passkey_challenges (expire_time)")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON passkey_challenges TO {APP}")
    op.execute(
        """
        CREATE TABLE login_tickets (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            user_id uuid NOT NULL REFERENCES users,
            ticket_hash bytea NOT NULL CHECK (length(ticket_hash) = 32),
            session_epoch integer NOT NULL,
            device_info jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            expire_time timestamptz NOT NULL,
            use_time timestamptz,
            CONSTRAINT login_tickets_ticket UNIQUE (ticket_hash))
        """
    )
    op.execute("CREATE INDEX login_tickets_expire ON login_tickets (expire_time)")
    protect("login_tickets", APP, "SELECT, INSERT")
    op.execute(f"GRANT UPDATE (use_time) ON login_tickets TO {APP}")


def _proofs() -> None:
    # With new_email it is the code of ChangeEmail: the address becomes this, as long as it still is what it was, and no
    # new password has ended the sessions in which the change was asked for.
    op.execute(
        """
        ALTER TABLE email_verifications
            ADD COLUMN new_email text CHECK (length(new_email) <= 254),
            ADD COLUMN replaces_key text,
            ADD COLUMN session_epoch integer,
            ADD CONSTRAINT email_verifications_change
                CHECK (num_nonnulls(new_email, replaces_key, session_epoch) IN (0, 3))
        """
    )
    op.execute(
        """
        CREATE TABLE password_resets (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            user_id uuid NOT NULL REFERENCES users,
            token_hash bytea NOT NULL CHECK (length(token_hash) = 32),
            email_key text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            expire_time timestamptz NOT NULL,
            use_time timestamptz,
            supersede_time timestamptz,
            CONSTRAINT password_resets_token UNIQUE (token_hash))
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX password_resets_live ON password_resets (user_id)"
        " WHERE use_time IS NULL AND supersede_time IS NULL"
    )
    op.execute("CREATE INDEX password_resets_expire ON password_resets (expire_time)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (use_time, supersede_time), DELETE ON password_resets TO {APP}")
    # Mails that were asked for, by hash of the address, whether or not anybody has it.
    op.execute(
        """
        CREATE TABLE mail_requests (
            address_hash bytea NOT NULL CHECK (length(address_hash) = 32),
            kind text NOT NULL CHECK (kind IN ('verify', 'reset')),
            begin_time timestamptz NOT NULL DEFAULT now(),
            requests integer NOT NULL DEFAULT 1,
            PRIMARY KEY (address_hash, kind))
        """
    )
    op.execute("CREATE INDEX mail_requests_begin ON mail_requests (begin_time)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON mail_requests TO {APP}")


def _agents() -> None:
    op.execute(
        """
        CREATE TABLE agents (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
            description text NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
            level text NOT NULL CHECK (level IN ('organization', 'project')),
            status text NOT NULL DEFAULT 'active'
                CHECK (status IN ('active', 'probation', 'inactive', 'terminated')),
            status_reason text NOT NULL DEFAULT '' CHECK (length(status_reason) <= 500),
            scopes text[] NOT NULL CHECK (cardinality(scopes) <= 100),
            token_version bigint NOT NULL DEFAULT 1,
            revision integer NOT NULL DEFAULT 1,
            created_by uuid NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX agents_name ON agents (tenant_id, lower(display_name)) WHERE status <> 'terminated'"
    )
    op.execute("CREATE INDEX agents_page ON agents (tenant_id, id DESC)")
    protect("agents", APP, "SELECT, INSERT")
    changes = "display_name, description, level, status, status_reason, scopes, token_version, revision, update_time"
    op.execute(f"GRANT UPDATE ({changes}) ON agents TO {APP}")
    op.execute(
        """
        CREATE TABLE agent_credentials (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            agent_id uuid NOT NULL REFERENCES agents,
            display_name text NOT NULL DEFAULT '' CHECK (length(display_name) <= 120),
            prefix text NOT NULL,
            secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
            scopes text[] NOT NULL CHECK (cardinality(scopes) <= 100),
            expire_time timestamptz NOT NULL,
            revoke_time timestamptz,
            replaced_by uuid REFERENCES agent_credentials,
            last_use_time timestamptz,
            created_by uuid NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CHECK (expire_time <= create_time + interval '91 days'),
            CONSTRAINT agent_credentials_secret UNIQUE (secret_hash))
        """
    )
    op.execute("CREATE INDEX agent_credentials_page ON agent_credentials (tenant_id, agent_id, id DESC)")
    protect("agent_credentials", APP, "SELECT, INSERT")
    op.execute(f"GRANT UPDATE (revoke_time, replaced_by, last_use_time) ON agent_credentials TO {APP}")
    op.execute(
        """
        CREATE TABLE credential_usage_logs (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            credential_id uuid NOT NULL REFERENCES agent_credentials,
            success boolean NOT NULL,
            problem text NOT NULL DEFAULT '' CHECK (problem IN ('', 'expired', 'revoked', 'agent_inactive')),
            ip_address text NOT NULL,
            user_agent text NOT NULL CHECK (length(user_agent) <= 200),
            create_time timestamptz NOT NULL DEFAULT now(),
            CHECK (success = (problem = '')))
        """
    )
    op.execute("CREATE INDEX credential_usage_logs_page ON credential_usage_logs (tenant_id, credential_id, id DESC)")
    op.execute("CREATE INDEX credential_usage_logs_time ON credential_usage_logs (create_time)")
    protect("credential_usage_logs", APP, "SELECT, INSERT")


def _badges() -> None:
    op.execute(
        """
        CREATE TABLE badge_types (
            tenant_id uuid NOT NULL REFERENCES tenants,
            slug text NOT NULL CHECK (slug ~ '^[a-z][a-z0-9_]{1,38}[a-z0-9]$'),
            display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
            description text NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
            shares integer NOT NULL DEFAULT 0 CHECK (shares BETWEEN 0 AND 1000),
            once boolean NOT NULL DEFAULT false,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT badge_types_slug PRIMARY KEY (tenant_id, slug))
        """
    )
    protect("badge_types", APP, "SELECT, INSERT")
    op.execute(
        """
        CREATE TABLE badges (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            user_id uuid NOT NULL,
            badge_type text NOT NULL,
            parent_id uuid,
            depth integer NOT NULL DEFAULT 0 CHECK (depth BETWEEN 0 AND 63),
            parent_depth integer GENERATED ALWAYS AS (CASE WHEN parent_id IS NOT NULL THEN depth - 1 END) STORED,
            awarded_by uuid NOT NULL,
            metadata jsonb NOT NULL DEFAULT '{}',
            create_time timestamptz NOT NULL DEFAULT now(),
            revoke_time timestamptz,
            revoke_reason text NOT NULL DEFAULT '' CHECK (length(revoke_reason) <= 500),
            FOREIGN KEY (tenant_id, user_id) REFERENCES memberships,
            FOREIGN KEY (tenant_id, badge_type) REFERENCES badge_types,
            CHECK ((parent_id IS NULL) = (depth = 0)),
            UNIQUE (tenant_id, badge_type, id, depth),
            -- A parent is of the same tenant and type and one step higher: no line has a circle, and none is endless.
            FOREIGN KEY (tenant_id, badge_type, parent_id, parent_depth)
                REFERENCES badges (tenant_id, badge_type, id, depth))
        """
    )
    op.execute("CREATE UNIQUE INDEX badges_held ON badges (tenant_id, user_id, badge_type) WHERE revoke_time IS NULL")
    op.execute("CREATE INDEX badges_page ON badges (tenant_id, id DESC)")
    op.execute("CREATE INDEX badges_parent ON badges (tenant_id, parent_id)")
    protect("badges", APP, "SELECT, INSERT")
    op.execute(f"GRANT UPDATE (revoke_time, revoke_reason) ON badges TO {APP}")


def _revocations() -> None:
    # Read by the service for all verifiers; target_tenant_id is what is revoked, not whose row it is.
    op.execute(
        """
        CREATE TABLE revocations (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            session_id uuid,
            subject_id uuid,
            target_tenant_id uuid,
            least_version bigint NOT NULL DEFAULT 0,
            create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            forget_time timestamptz NOT NULL,
            xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            CHECK (num_nonnulls(session_id, subject_id, target_tenant_id) = 1),
            CHECK ((subject_id IS NULL) = (least_version = 0)))
        """
    )
    op.execute("CREATE INDEX revocations_xid ON revocations (xid)")
    op.execute("CREATE INDEX revocations_forget ON revocations (forget_time)")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON revocations TO {APP}")


def _housekeeping() -> None:
    # What is old goes, in every tenant, by these statements only: the service's role cannot delete these rows itself.
    old = {
        "audit_logs": "create_time < now() - interval '90 days'",
        "session_activities": "create_time < now() - interval '90 days'",
        "credential_usage_logs": "create_time < now() - interval '90 days'",
        "login_tickets": "expire_time < now() - interval '1 day'",
        "email_verifications": "expire_time < now() - interval '30 days'",
        "sessions": "least(expire_time, idle_expire_time, revoke_time) < now() - interval '30 days'",
    }
    for table, condition in old.items():
        op.execute(f"CREATE POLICY purge ON {table} FOR DELETE TO {OWNER} USING ({condition})")
        op.execute(f"CREATE POLICY purge_finds ON {table} FOR SELECT TO {OWNER} USING ({condition})")
    deletes = ";\n".join(
        f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT most));\n"
        f"GET DIAGNOSTICS gone = ROW_COUNT; total := total + gone"
        for table, condition in old.items()
    )
    op.execute(
        f"""
        CREATE FUNCTION purge(most integer) RETURNS bigint
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
        DECLARE gone bigint; total bigint := 0;
        BEGIN
            {deletes};
            RETURN total;
        END $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION purge(integer) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION purge(integer) TO {APP}")
    op.execute("CREATE INDEX audit_logs_age ON audit_logs (create_time)")


def _erasure() -> None:
    # What a deleted person leaves in other tenants, and what the service's role cannot delete, goes by this function.
    # It reaches nobody who was not deleted.
    for table in ("memberships", "user_identities", "email_verifications", "login_tickets", "sessions"):
        op.execute(
            f"CREATE POLICY erasure ON {table} TO {OWNER}"
            " USING (user_id IN (SELECT id FROM users WHERE delete_time IS NOT NULL))"
        )
    factors = ("totp_secrets", "recovery_codes", "factor_attempts", "passkeys", "passkey_challenges", "devices")
    proofs = ("email_verifications", "password_resets", "login_tickets", "user_identities")
    deletes = ";\n".join(f"DELETE FROM {table} WHERE user_id = person" for table in (*factors, *proofs))
    op.execute(
        f"""
        CREATE FUNCTION erase(person uuid) RETURNS void
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = auth, pg_temp AS $$
        BEGIN
            IF NOT EXISTS (SELECT FROM users WHERE id = person AND delete_time IS NOT NULL) THEN
                RAISE EXCEPTION 'only who was deleted can be erased';
            END IF;
            {deletes};
            UPDATE sessions SET device_info = '{{}}', revoke_time = coalesce(revoke_time, now()),
                revoke_reason = coalesce(revoke_reason, 'credentials') WHERE user_id = person;
            UPDATE memberships SET metadata = '{{}}', revision = revision + 1, update_time = now(),
                remove_time = coalesce(remove_time, now()),
                remove_reason = CASE WHEN remove_time IS NULL THEN 'the account was deleted' ELSE remove_reason END
                WHERE user_id = person;
        END $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION erase(uuid) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION erase(uuid) TO {APP}")
