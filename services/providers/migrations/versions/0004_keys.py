"""Keys of people: what ended stays ended, whatever is written, and a wrapping never becomes older.

The service may change what changes in the life of a key and not whose it is, nor where it may be sent. A row that was
revoked or has expired does not come back, not even with material that a backup still has: who can write to the table
alone cannot bring a key back to life. The wrapping is changed by the functions of re-wrapping, which only go forward.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
APP = "triptych_providers_app"
CHANGING = (
    "state, state_reason, encrypted_api_key, encrypted_dek, validate_time, validate_due, expire_time, revoke_time,"
    " last_use_time, use_count, revision, update_time"
)


def upgrade() -> None:
    op.execute(f"REVOKE UPDATE ON user_providers FROM {APP}")
    op.execute(f"GRANT UPDATE ({CHANGING}) ON user_providers TO {APP}")
    _guard_ends()
    _guard_wrappings()


def _guard_ends() -> None:
    # It looks at changes of these columns alone: re-wrapping and counting uses cost nothing more than before.
    op.execute(
        """
        CREATE FUNCTION refuse_return() RETURNS trigger LANGUAGE plpgsql SET search_path = providers, pg_temp AS $$
        BEGIN
            RAISE EXCEPTION 'a key that was revoked or has expired does not come back'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'user_providers_ended';
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER user_providers_ended BEFORE UPDATE OF state, encrypted_api_key ON user_providers
        FOR EACH ROW WHEN (OLD.state = 'revoked' AND NEW.state <> 'revoked'
                           OR OLD.state = 'expired' AND NEW.state NOT IN ('expired', 'revoked'))
        EXECUTE FUNCTION refuse_return()
        """
    )


def _guard_wrappings() -> None:
    # As before, but a wrapping by an older version is not stored: a server that was restored, or lags, may make one.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION store_wrappings(ids uuid[], old text[], new text[]) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = providers, pg_temp AS $$
        DECLARE stored integer;
        BEGIN
            UPDATE user_providers k
            SET encrypted_dek = w.new, kek_version = w.version, rewrap_time = now()
            FROM (SELECT g.id, g.old, g.new, substr(split_part(g.new, ':', 2), 2)::integer AS version
                  FROM unnest(ids, old, new) AS g (id, old, new)) w
            WHERE k.id = w.id AND k.encrypted_dek = w.old AND w.version >= k.kek_version;
            GET DIAGNOSTICS stored = ROW_COUNT;
            RETURN stored;
        END
        $$
        """
    )
