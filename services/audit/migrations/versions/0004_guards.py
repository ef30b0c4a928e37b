"""What the rows themselves refuse to the owner of the schema; what it may do to the tables is in guards.sql.

Its functions detach and drop months by what `manifests` and `retirements` say, so neither may be written past them: a
manifest is archived by the service alone, and everything else is said in the session of the login that retires.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"
KEEPER = "triptych_audits_relay"


def upgrade() -> None:
    _manifests()
    _retirements()
    _months()
    _always("openings", "no_truncation", "BEFORE TRUNCATE", "FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
    _guard_states()


def _manifests() -> None:
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION keep_manifest() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF (OLD.state, NEW.state, current_user::text) = ('manifested', 'archived', '{APP}')
               OR (OLD.state, NEW.state, current_user::text, session_user::text)
                  = ('archived', 'retired', '{OWNER}', '{KEEPER}') THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'audits.manifests: a manifest that is % cannot become %', OLD.state, NEW.state
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )


def _retirements() -> None:
    op.execute(
        f"""
        CREATE FUNCTION keep_retirement() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF session_user <> '{KEEPER}' OR TG_OP = 'UPDATE' AND (NEW.month <> OLD.month
               OR (OLD.state, NEW.state) NOT IN (('planned', 'detached'), ('detached', 'dropped'))) THEN
                RAISE EXCEPTION 'audits.retirements: only the functions of {KEEPER} say what becomes of a month'
                    USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    each = "FOR EACH ROW EXECUTE FUNCTION"
    _always("retirements", "only_onwards", "BEFORE INSERT OR UPDATE", f"{each} keep_retirement()")
    _always("retirements", "no_deletion", "BEFORE DELETE", f"{each} refuse()")
    _always("retirements", "no_truncation", "BEFORE TRUNCATE", "FOR EACH STATEMENT EXECUTE FUNCTION refuse()")


def _months() -> None:
    op.execute(
        """
        CREATE OR REPLACE FUNCTION drop_month(month date) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
        BEGIN
            PERFORM FROM audits.retirements r WHERE r.month = drop_month.month AND r.state = 'detached' FOR UPDATE;
            IF NOT FOUND OR audits.partition_of(month) IS NOT NULL THEN
                RAISE EXCEPTION 'audits: % has not been detached', month USING ERRCODE = 'insufficient_privilege';
            END IF;
            EXECUTE format('DROP TABLE IF EXISTS audits.%I', 'audit_log_' || to_char(month, 'YYYY_MM'));
            UPDATE audits.retirements r SET state = 'dropped', drop_time = now() WHERE r.month = drop_month.month;
        END $$
        """
    )


def _guard_states() -> None:
    """What was recorded is compared with what is there: the owner could say before that it knows what it will do."""
    op.execute("ALTER TABLE guard_states ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE guard_states FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY service ON guard_states TO {APP} USING (true) WITH CHECK (true)")
    op.execute("ALTER TABLE guard_states ADD COLUMN last_change bigint NOT NULL DEFAULT 0")


def _always(table: str, name: str, moment: str, act: str) -> None:
    op.execute(f"CREATE TRIGGER {name} {moment} ON {table} {act}")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
