"""Who somebody is: tenants, users, memberships, sessions, invitations, signing keys."""

from alembic import op

from services.kit.migrations import create_kit_tables, protect

revision = "0001"
down_revision = None
APP = "triptych_auth_app"


def upgrade() -> None:
    create_kit_tables("auth")
    _people()
    _ways_in()
    _sessions()
    _attempts()
    _keys_and_events()


def _people() -> None:
    op.execute(
        """
        CREATE TABLE tenants (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            slug text NOT NULL CONSTRAINT tenants_slug_form CHECK (slug ~ '^[a-z][a-z0-9-]{1,38}[a-z0-9]$'),
            display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
            tier text NOT NULL DEFAULT 'free' CHECK (tier IN ('free', 'pro', 'enterprise')),
            settings jsonb NOT NULL DEFAULT '{}',
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            delete_time timestamptz,
            CONSTRAINT tenants_slug UNIQUE (slug))
        """
    )
    protect("tenants", APP, "SELECT, INSERT, UPDATE", column="id")
    # Bootstrap must find a tenant by its slug before it knows its id. It names the system tenant to do so, and may
    # only read.
    op.execute(
        f"CREATE POLICY directory ON tenants FOR SELECT TO {APP}"
        " USING (current_setting('app.tenant', true) = '00000000-0000-0000-0000-000000000000')"
    )
    # A person is one in the whole installation, whatever tenants they belong to: no tenant_id, and calls read people
    # through memberships only. role is a membership's; failed_login_attempts and locked_until are in login_attempts,
    # because addresses that nobody has are counted as well.
    op.execute(
        """
        CREATE TABLE users (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            email text NOT NULL CHECK (length(email) <= 254),
            email_key text NOT NULL,
            display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
            password_hash text CHECK (password_hash LIKE '$argon2id$%'),
            verified boolean NOT NULL DEFAULT false,
            default_tenant_id uuid NOT NULL,
            settings jsonb NOT NULL DEFAULT '{}',
            last_login_time timestamptz,
            revision integer NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            disable_time timestamptz,
            delete_time timestamptz,
            CONSTRAINT users_email_key UNIQUE (email_key))
        """
    )
    changes = "display_name, password_hash, verified, settings, last_login_time, revision, update_time"
    op.execute(f"GRANT SELECT, INSERT, UPDATE ({changes}) ON users TO {APP}")
    op.execute(
        """
        CREATE TABLE memberships (
            tenant_id uuid NOT NULL REFERENCES tenants,
            user_id uuid NOT NULL REFERENCES users,
            role text NOT NULL CHECK (role IN ('guest', 'viewer', 'user', 'admin')),
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now(),
            remove_time timestamptz,
            PRIMARY KEY (tenant_id, user_id))
        """
    )
    op.execute("CREATE INDEX memberships_user ON memberships (user_id)")
    protect("memberships", APP, "SELECT, INSERT")


def _ways_in() -> None:
    op.execute(
        """
        CREATE TABLE invitations (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            code_hash bytea NOT NULL CHECK (length(code_hash) = 32),
            role text NOT NULL CHECK (role IN ('guest', 'viewer', 'user', 'admin')),
            max_uses integer NOT NULL CHECK (max_uses BETWEEN 1 AND 1000),
            uses integer NOT NULL DEFAULT 0,
            expire_time timestamptz NOT NULL,
            created_by uuid,
            create_time timestamptz NOT NULL DEFAULT now(),
            revoke_time timestamptz,
            CHECK (uses BETWEEN 0 AND max_uses),
            CHECK (expire_time <= create_time + interval '31 days'),
            CONSTRAINT invitations_code UNIQUE (code_hash))
        """
    )
    op.execute("CREATE INDEX invitations_page ON invitations (tenant_id, id DESC)")
    protect("invitations", APP, "SELECT, INSERT")
    op.execute(f"GRANT UPDATE (uses, revoke_time) ON invitations TO {APP}")
    op.execute(
        """
        CREATE TABLE invitation_uses (
            tenant_id uuid NOT NULL,
            invitation_id uuid NOT NULL REFERENCES invitations,
            user_id uuid NOT NULL REFERENCES users,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, invitation_id, user_id),
            UNIQUE (invitation_id, user_id))
        """
    )
    protect("invitation_uses", APP, "INSERT")
    op.execute(
        """
        CREATE TABLE email_verifications (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            user_id uuid NOT NULL REFERENCES users,
            email_key text NOT NULL,
            code_hash bytea NOT NULL CHECK (length(code_hash) = 32),
            expire_time timestamptz NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            use_time timestamptz,
            CONSTRAINT email_verifications_code UNIQUE (code_hash))
        """
    )
    op.execute("CREATE INDEX email_verifications_user ON email_verifications (tenant_id, user_id)")
    protect("email_verifications", APP, "SELECT, INSERT")
    op.execute(f"GRANT UPDATE (use_time) ON email_verifications TO {APP}")


def _sessions() -> None:
    # One row for a family of refresh tokens: refresh_token_hash is of the part that they share, generation says which
    # of them is the newest, and a MAC in each token says which one it is.
    op.execute(
        """
        CREATE TABLE sessions (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL REFERENCES tenants,
            user_id uuid NOT NULL REFERENCES users,
            refresh_token_hash bytea NOT NULL CHECK (length(refresh_token_hash) = 32),
            generation integer NOT NULL DEFAULT 0 CHECK (generation >= 0),
            device_info jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            rotate_time timestamptz NOT NULL DEFAULT now(),
            last_use_time timestamptz NOT NULL DEFAULT now(),
            idle_expire_time timestamptz NOT NULL,
            expire_time timestamptz NOT NULL,
            revoke_time timestamptz,
            revoke_reason text CHECK (revoke_reason IN ('logout', 'reuse')),
            CHECK ((revoke_time IS NULL) = (revoke_reason IS NULL)),
            CHECK (idle_expire_time <= expire_time),
            CONSTRAINT sessions_refresh_token UNIQUE (refresh_token_hash))
        """
    )
    op.execute("CREATE INDEX sessions_user ON sessions (tenant_id, user_id, id DESC)")
    op.execute("CREATE INDEX sessions_expire ON sessions (tenant_id, expire_time)")
    protect("sessions", APP, "SELECT, INSERT")
    changes = "generation, rotate_time, last_use_time, idle_expire_time, revoke_time, revoke_reason"
    op.execute(f"GRANT UPDATE ({changes}) ON sessions TO {APP}")


def _attempts() -> None:
    op.execute(
        """
        CREATE TABLE login_attempts (
            address_hash bytea PRIMARY KEY CHECK (length(address_hash) = 32),
            failures integer NOT NULL DEFAULT 1,
            lock_expire_time timestamptz,
            update_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute("CREATE INDEX login_attempts_update ON login_attempts (update_time)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON login_attempts TO {APP}")
    # Only used while Valkey is away. Sources share 65,536 buckets, so that no flood makes the table larger.
    op.execute(
        """
        CREATE UNLOGGED TABLE login_sources (
            bucket integer PRIMARY KEY CHECK (bucket BETWEEN 0 AND 65535),
            minute bigint NOT NULL,
            attempts integer NOT NULL DEFAULT 1)
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON login_sources TO {APP}")


def _keys_and_events() -> None:
    op.execute(
        """
        CREATE TABLE signing_keys (
            generation integer PRIMARY KEY CHECK (generation > 0),
            key_id text NOT NULL UNIQUE,
            public_key bytea NOT NULL CHECK (length(public_key) = 32),
            sealed_private_key text CHECK (sealed_private_key LIKE 'vault:%'),
            not_before timestamptz NOT NULL,
            sign_until timestamptz NOT NULL,
            not_after timestamptz NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CHECK (not_before < sign_until AND sign_until < not_after))
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE (sealed_private_key) ON signing_keys TO {APP}")
    op.execute(
        """
        CREATE TABLE audit_logs (
            id uuid PRIMARY KEY DEFAULT uuidv7(),
            tenant_id uuid NOT NULL,
            user_id uuid,
            action text NOT NULL,
            resource text NOT NULL,
            status text NOT NULL CHECK (status IN ('success', 'failure')),
            details jsonb NOT NULL,
            ip_address text NOT NULL,
            user_agent text NOT NULL CHECK (length(user_agent) <= 200),
            create_time timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute("CREATE INDEX audit_logs_user ON audit_logs (tenant_id, user_id, id DESC)")
    op.execute("CREATE INDEX audit_logs_action ON audit_logs (tenant_id, action, id DESC)")
    op.execute("CREATE INDEX audit_logs_time ON audit_logs (tenant_id, create_time DESC)")
    protect("audit_logs", APP, "INSERT")
