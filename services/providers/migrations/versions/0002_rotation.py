"""Rotation and re-validation of keys, archived providers, and the functions that re-wrap envelopes across tenants."""

from alembic import op

revision = "0002"
down_revision = "0001"
APP = "triptych_providers_app"
OWNER = "triptych_providers_owner"
OPEN = "state IN ('active', 'rotating', 'invalid')"


def upgrade() -> None:
    op.execute("ALTER TABLE providers ADD COLUMN archive_time timestamptz")
    op.execute("ALTER TABLE providers ADD CONSTRAINT providers_archived CHECK (archive_time IS NULL OR NOT active)")
    _extend_keys()
    _index_keys()
    _create_sweep()
    _create_rewrap()


def _extend_keys() -> None:
    op.execute(
        """
        ALTER TABLE user_providers
            ADD COLUMN prefix text NOT NULL DEFAULT '' CHECK (length(prefix) <= 8),
            ADD COLUMN replaces_key_id uuid REFERENCES user_providers,
            ADD COLUMN state_reason text NOT NULL DEFAULT '' CHECK (length(state_reason) <= 200),
            ADD COLUMN use_count bigint NOT NULL DEFAULT 0 CHECK (use_count >= 0),
            ADD COLUMN validate_due timestamptz NOT NULL DEFAULT now() + interval '1 day',
            ADD COLUMN rewrap_time timestamptz
        """
    )
    # Keys that are there already are not all asked about in the same minute.
    op.execute(f"CREATE POLICY upgrade ON user_providers TO {OWNER} USING (true) WITH CHECK (true)")
    op.execute("UPDATE user_providers SET validate_due = now() + random() * interval '1 day'")
    op.execute("DROP POLICY upgrade ON user_providers")
    op.execute(
        f"""
        ALTER TABLE user_providers
            DROP CONSTRAINT user_providers_state_check,
            DROP CONSTRAINT user_providers_live,
            DROP CONSTRAINT user_providers_shredded,
            ADD CONSTRAINT user_providers_state
                CHECK (state IN ('active', 'rotating', 'revoked', 'expired', 'invalid')),
            ADD CONSTRAINT user_providers_live
                CHECK (NOT ({OPEN}) OR (encrypted_api_key IS NOT NULL AND encrypted_dek IS NOT NULL)),
            ADD CONSTRAINT user_providers_shredded
                CHECK ({OPEN} OR (encrypted_api_key IS NULL AND encrypted_dek IS NULL)),
            ADD CONSTRAINT user_providers_revoked CHECK ((state = 'revoked') = (revoke_time IS NOT NULL)),
            ADD CONSTRAINT user_providers_ends CHECK (state <> 'rotating' OR expire_time IS NOT NULL),
            ADD CONSTRAINT user_providers_kek_version
                CHECK (encrypted_dek IS NULL OR split_part(encrypted_dek, ':', 2) = 'v' || kek_version)
        """
    )


def _index_keys() -> None:
    whose = "tenant_id, owner_kind, owner_id, provider_id"
    for name, columns, where in (
        ("label", f"{whose}, label", "state IN ('active', 'invalid')"),
        ("fingerprint", f"{whose}, fingerprint", OPEN),
    ):
        op.execute(f"DROP INDEX user_providers_{name}")
        op.execute(f"CREATE UNIQUE INDEX user_providers_{name} ON user_providers ({columns}) WHERE {where}")
    op.execute(f"CREATE INDEX user_providers_expiry ON user_providers (expire_time) WHERE {OPEN}")
    op.execute("CREATE INDEX user_providers_due ON user_providers (validate_due) WHERE state IN ('active', 'rotating')")
    op.execute(f"CREATE INDEX user_providers_open ON user_providers (tenant_id, provider_id) WHERE {OPEN}")
    # No index knows what re-wrapping changes, and pages keep room: it then touches the rows and nothing else.
    op.execute("ALTER TABLE user_providers SET (fillfactor = 50)")
    op.execute("CREATE INDEX providers_archive ON providers (archive_time) WHERE archive_time IS NOT NULL")


def _create_sweep() -> None:
    # Work is done tenant by tenant under row-level security; this tells in which tenants there is any.
    op.execute(f"CREATE POLICY sweep ON user_providers FOR SELECT TO {OWNER} USING (true)")
    op.execute(f"CREATE POLICY sweep ON providers FOR SELECT TO {OWNER} USING (true)")
    _create_function(
        "tenants_with_due_keys()",
        "SETOF uuid LANGUAGE sql STABLE",
        f"""
        SELECT tenant_id FROM user_providers WHERE {OPEN} AND expire_time <= now()
        UNION
        SELECT k.tenant_id FROM providers p JOIN user_providers k USING (tenant_id)
        WHERE p.archive_time IS NOT NULL AND k.provider_id = p.id AND k.{OPEN}
        UNION
        SELECT k.tenant_id FROM user_providers k JOIN providers p ON p.tenant_id = k.tenant_id AND p.id = k.provider_id
        WHERE k.state IN ('active', 'rotating') AND k.validate_due <= now() AND p.active
        """,
    )


def _create_rewrap() -> None:
    # Re-wrapping goes across tenants. It sees of a key what the wrapping is bound to, never the sealed key itself, and
    # stores a wrapping only in the place of the one that it was made of.
    op.execute(f"CREATE POLICY rewrap ON user_providers FOR UPDATE TO {OWNER} USING (true) WITH CHECK (true)")
    _create_function(
        "wrappings_below(version integer, after uuid, size integer)",
        "TABLE (id uuid, tenant_id uuid, encrypted_dek text) LANGUAGE sql STABLE",
        """
        SELECT k.id, k.tenant_id, k.encrypted_dek FROM user_providers k
        WHERE k.encrypted_dek IS NOT NULL AND k.kek_version < version AND k.id > after
        ORDER BY k.id LIMIT least(size, 10000)
        """,
    )
    _create_function(
        "store_wrappings(ids uuid[], old text[], new text[])",
        "integer LANGUAGE plpgsql",
        """
        DECLARE stored integer;
        BEGIN
            UPDATE user_providers k
            SET encrypted_dek = w.new, kek_version = substr(split_part(w.new, ':', 2), 2)::integer, rewrap_time = now()
            FROM unnest(ids, old, new) AS w (id, old, new)
            WHERE k.id = w.id AND k.encrypted_dek = w.old;
            GET DIAGNOSTICS stored = ROW_COUNT;
            RETURN stored;
        END
        """,
    )
    _create_function(
        "wrapping_standing()",
        "TABLE (kek_version integer, keys bigint, last_rewrap_time timestamptz) LANGUAGE sql STABLE",
        """
        SELECT k.kek_version, count(*) FILTER (WHERE k.encrypted_dek IS NOT NULL), max(k.rewrap_time)
        FROM user_providers k GROUP BY k.kek_version ORDER BY k.kek_version
        """,
    )


def _create_function(signature: str, returns: str, body: str) -> None:
    """Make a function that runs as the schema's owner and that the service alone may call."""
    name, _, arguments = signature.partition("(")
    types = ", ".join(part.split()[-1] for part in arguments.rstrip(")").split(",") if part)
    kind, _, attributes = returns.partition(" LANGUAGE ")
    op.execute(
        f"CREATE FUNCTION {signature} RETURNS {kind} LANGUAGE {attributes}"
        f" SECURITY DEFINER SET search_path = providers, pg_temp AS $${body}$$"
    )
    op.execute(f"REVOKE ALL ON FUNCTION {name}({types}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {name}({types}) TO {APP}")
