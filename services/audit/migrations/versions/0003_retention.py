"""Counts that are kept as entries come in, search by words, personal values beside the log, and retirement of months.

The service's role still cannot take anything out of the log. The schema's second login, which relays nothing here, may
have a month detached and dropped by two functions; these look for themselves whether the log vouches for the month.
"""

from alembic import op

from services.kit.migrations import protect

revision = "0003"
down_revision = "0002"
APP = "triptych_audits_app"
OWNER = "triptych_audits_owner"
KEEPER = "triptych_audits_relay"
MONTH = "recorded_at >= {0}::timestamptz AND recorded_at < ({0} + interval '1 month')::timestamptz"


def upgrade() -> None:
    # Functions of the owner read across tenants; each of them says whose rows it means.
    op.execute(f"CREATE POLICY functions ON audit_log FOR SELECT TO {OWNER} USING (true)")
    _statistics()
    _timeline()
    _search()
    _openings()
    _manifests()
    _retirements()


def _statistics() -> None:
    op.execute("DROP VIEW statistics")
    op.execute(
        """
        CREATE TABLE statistics (
            tenant_id uuid NOT NULL,
            day date NOT NULL,
            source text NOT NULL,
            action text NOT NULL,
            events bigint NOT NULL CHECK (events > 0),
            first_occurred timestamptz NOT NULL,
            last_occurred timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, day, source, action))
        """
    )
    op.execute(
        """
        INSERT INTO statistics
        SELECT tenant_id, (recorded_at AT TIME ZONE 'UTC')::date, source, action, count(*), min(occurred_at),
               max(occurred_at)
        FROM audit_log GROUP BY 1, 2, 3, 4
        """
    )
    op.execute(
        """
        CREATE FUNCTION grow_statistics() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF NEW.events <= OLD.events OR NEW.first_occurred > OLD.first_occurred
               OR NEW.last_occurred < OLD.last_occurred THEN
                RAISE EXCEPTION 'audits.statistics: counts only grow' USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    _always("statistics", "only_growth", "BEFORE UPDATE", "FOR EACH ROW EXECUTE FUNCTION grow_statistics()")
    _always("statistics", "no_deletion", "BEFORE DELETE", "FOR EACH ROW EXECUTE FUNCTION refuse()")
    _always("statistics", "no_truncation", "BEFORE TRUNCATE", "FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
    protect("statistics", APP, "SELECT, INSERT, UPDATE (events, first_occurred, last_occurred)")


def _timeline() -> None:
    # It also serves the filter by entity: one entity has few entries, and they are sorted when they are read.
    op.execute("DROP INDEX audit_log_entity")
    op.execute("CREATE INDEX audit_log_timeline ON audit_log (tenant_id, entity, occurred_at, seq)")


def _search() -> None:
    """Words of entity, action and payload; the tenant is one of the words, so that no index entry of another is read.

    Under row-level security the operator `@@` cannot use an index (it is not leakproof). Hence a function of the owner,
    which limits its rows to the tenant of the transaction.
    """
    # Names as they are, which the parser may take for a host or a file, and in their parts.
    names = "{0}.entity || ' ' || {0}.action || ' ' || translate({0}.entity || ' ' || {0}.action, ':._/-', '     ')"
    words = (
        "array_to_tsvector(ARRAY[{0}.tenant_id::text]) || to_tsvector('simple'::regconfig, " + names + ")"
        " || jsonb_to_tsvector('simple'::regconfig, ({0}.body::jsonb) -> 'payload', '[\"all\"]'::jsonb)"
    )
    op.execute(f"CREATE INDEX audit_log_words ON audit_log USING gin (({words.format('audit_log')}))")
    page = f"""
        SELECT l.seq, l.recorded_at, l.leaf, l.body FROM audits.audit_log l
        WHERE l.tenant_id = mine AND ({words.format("l")}) @@ (quote_literal(mine)::tsquery && words)
          AND (filter ->> 'entity' IS NULL OR l.entity = filter ->> 'entity')
          AND (filter ->> 'action' IS NULL OR l.action = filter ->> 'action')
          AND (filter ->> 'action_prefix' IS NULL OR starts_with(l.action, filter ->> 'action_prefix'))
          AND (filter ->> 'actor_id' IS NULL OR l.actor_id = filter ->> 'actor_id')
          AND (filter ->> 'correlation_id' IS NULL OR l.correlation_id = filter ->> 'correlation_id')
          AND (filter ->> 'source' IS NULL OR l.source = filter ->> 'source')
          AND (since IS NULL OR l.recorded_at >= since) AND (until IS NULL OR l.recorded_at < until)
        ORDER BY l.recorded_at {{}} LIMIT most"""
    op.execute(
        f"""
        CREATE FUNCTION find_entries(
            text text, filter jsonb, since timestamptz, until timestamptz, oldest_first boolean, most integer)
        RETURNS TABLE (seq bigint, recorded_at timestamptz, leaf bytea, body text)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET plan_cache_mode = force_custom_plan AS $$
        #variable_conflict use_column
        DECLARE
            mine constant uuid := nullif(current_setting('app.tenant', true), '')::uuid;
            words constant tsquery := websearch_to_tsquery('simple', text);
        BEGIN
            IF mine IS NULL OR numnode(words) = 0 THEN
                RETURN;
            END IF;
            IF oldest_first THEN
                RETURN QUERY {page.format("ASC")};
            ELSE
                RETURN QUERY {page.format("DESC")};
            END IF;
        END $$
        """
    )
    _only(APP, "find_entries(text, jsonb, timestamptz, timestamptz, boolean, integer)")


def _openings() -> None:
    """Salt and value of each commitment. Not part of the log: whoever erases a row here changes no proof."""
    op.execute(
        """
        CREATE TABLE openings (
            tenant_id uuid NOT NULL,
            seq bigint NOT NULL CHECK (seq >= 0),
            path text NOT NULL CHECK (length(path) BETWEEN 2 AND 300),
            event_id uuid NOT NULL,
            entity text NOT NULL,
            actor_id text NOT NULL,
            salt bytea NOT NULL CHECK (octet_length(salt) = 16),
            value jsonb NOT NULL,
            retention_class text NOT NULL CHECK (retention_class IN ('authentication', 'data', 'compliance')),
            recorded_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, seq, path))
        """
    )
    op.execute("CREATE INDEX openings_entity ON openings (tenant_id, entity)")
    op.execute("CREATE INDEX openings_actor_id ON openings (tenant_id, actor_id)")
    op.execute("CREATE INDEX openings_recorded_at ON openings (retention_class, recorded_at)")
    protect("openings", APP, "SELECT, INSERT, DELETE")
    op.execute(f"CREATE POLICY functions ON openings FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION logs_with_old_openings(class text, before timestamptz, most integer)
        RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT DISTINCT o.tenant_id FROM audits.openings o
            WHERE o.retention_class = class AND o.recorded_at < before LIMIT most
        $$
        """
    )
    _only(APP, "logs_with_old_openings(text, timestamptz, integer)")


def _manifests() -> None:
    """What vouches for a month that leaves a log; the same is in the log itself, under `event_id`."""
    op.execute(
        """
        CREATE TABLE manifests (
            tenant_id uuid NOT NULL,
            month date NOT NULL CHECK (extract(day FROM month) = 1),
            begin_seq bigint NOT NULL CHECK (begin_seq >= 0),
            end_seq bigint NOT NULL,
            last_leaf bytea NOT NULL CHECK (octet_length(last_leaf) = 32),
            manifest_seq bigint NOT NULL,
            event_id uuid NOT NULL,
            sources jsonb NOT NULL,
            state text NOT NULL DEFAULT 'manifested' CHECK (state IN ('manifested', 'archived', 'retired')),
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, month),
            CONSTRAINT manifests_range CHECK (begin_seq < end_seq AND end_seq <= manifest_seq))
        """
    )
    op.execute(
        """
        CREATE TABLE archives (
            tenant_id uuid NOT NULL,
            month date NOT NULL,
            retention_class text NOT NULL CHECK (retention_class IN ('authentication', 'data', 'compliance')),
            name text NOT NULL CHECK (length(name) BETWEEN 1 AND 300),
            sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
            entries bigint NOT NULL CHECK (entries > 0),
            expire_time timestamptz NOT NULL,
            delete_time timestamptz,
            PRIMARY KEY (tenant_id, month, retention_class),
            FOREIGN KEY (tenant_id, month) REFERENCES manifests (tenant_id, month))
        """
    )
    protect("manifests", APP, "SELECT, INSERT, UPDATE (state)")
    protect("archives", APP, "SELECT, INSERT, UPDATE (delete_time)")
    op.execute(
        """
        CREATE FUNCTION keep_manifest() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF (OLD.state, NEW.state) = ('manifested', 'archived')
               OR (OLD.state, NEW.state, current_user::text) = ('archived', 'retired', 'triptych_audits_owner') THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'audits.manifests: a manifest that is % cannot become %', OLD.state, NEW.state
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION keep_archive() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF OLD.delete_time IS NULL AND NEW.delete_time >= OLD.expire_time THEN
                RETURN NEW;
            END IF;
            RAISE EXCEPTION 'audits.archives: an archive is deleted once, after its time'
                USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    for table, keep in {"manifests": "keep_manifest", "archives": "keep_archive"}.items():
        _always(table, "only_onwards", "BEFORE UPDATE", f"FOR EACH ROW EXECUTE FUNCTION {keep}()")
        _always(table, "no_deletion", "BEFORE DELETE", "FOR EACH ROW EXECUTE FUNCTION refuse()")
        _always(table, "no_truncation", "BEFORE TRUNCATE", "FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
        # Foreign keys are checked as the owner of the table.
        op.execute(f"CREATE POLICY functions ON {table} FOR SELECT TO {OWNER} USING (true)")
    op.execute(f"CREATE POLICY retire ON manifests FOR UPDATE TO {OWNER} USING (true) WITH CHECK (true)")
    op.execute(f"CREATE POLICY retire ON dedup FOR SELECT TO {OWNER} USING (true)")
    op.execute(
        """
        CREATE FUNCTION logs_with_old_archives(before timestamptz, most integer)
        RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT DISTINCT a.tenant_id FROM audits.archives a JOIN audits.manifests m USING (tenant_id, month)
            WHERE a.delete_time IS NULL AND a.expire_time < before AND m.state = 'retired' LIMIT most
        $$
        """
    )
    _only(APP, "logs_with_old_archives(timestamptz, integer)")


def _retirements() -> None:
    """A month of all logs. It tells of no tenant."""
    op.execute(
        """
        CREATE TABLE retirements (
            month date PRIMARY KEY CHECK (extract(day FROM month) = 1),
            state text NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'detached', 'dropped')),
            plan_time timestamptz NOT NULL DEFAULT now(),
            detach_time timestamptz,
            drop_time timestamptz)
        """
    )
    op.execute(f"GRANT SELECT, INSERT (month) ON retirements TO {KEEPER}")
    op.execute(
        """
        CREATE FUNCTION partition_of(month date) RETURNS regclass
        LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
            SELECT c.oid::regclass FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
            WHERE i.inhparent = 'audits.audit_log'::regclass AND c.relname = 'audit_log_' || to_char(month, 'YYYY_MM')
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION old_months(before date) RETURNS TABLE (month date, state text)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            WITH present AS (
                SELECT to_date(substring(c.relname FROM '[0-9]{4}_[0-9]{2}$'), 'YYYY_MM') AS month
                FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
                WHERE i.inhparent = 'audits.audit_log'::regclass)
            SELECT month, coalesce(r.state, 'present') FROM present FULL JOIN audits.retirements r USING (month)
            WHERE month < least(before, date_trunc('month', now() AT TIME ZONE 'UTC')::date)
              AND r.state IS DISTINCT FROM 'dropped' ORDER BY 1
        $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION logs_of_month(month date)
        RETURNS TABLE (tenant_id uuid, begin_seq bigint, end_seq bigint, entries bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
            SELECT l.tenant_id, min(l.seq), max(l.seq) + 1, count(*) FROM audits.audit_log l
            WHERE {MONTH.format("logs_of_month.month")} GROUP BY 1
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION detach_month(month date) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
        DECLARE
            part constant regclass := audits.partition_of(month);
            log record;
        BEGIN
            IF part IS NULL OR month >= date_trunc('month', now() AT TIME ZONE 'UTC')::date THEN
                RAISE EXCEPTION 'audits: % is no month that can be retired', month;
            END IF;
            EXECUTE format('LOCK TABLE %s IN SHARE MODE', part);
            FOR log IN
                SELECT l.tenant_id FROM audits.logs_of_month(month) l WHERE NOT EXISTS (
                    SELECT FROM audits.manifests m
                    JOIN audits.dedup d ON d.tenant_id = m.tenant_id AND d.event_id = m.event_id
                    JOIN audits.audit_log e
                      ON e.tenant_id = m.tenant_id AND e.seq = m.end_seq - 1 AND e.leaf = m.last_leaf
                    WHERE m.tenant_id = l.tenant_id AND m.month = detach_month.month AND m.state = 'archived'
                      AND (m.begin_seq, m.end_seq) = (l.begin_seq, l.end_seq) AND l.entries = m.end_seq - m.begin_seq
                      AND d.seq = m.manifest_seq AND EXISTS (SELECT FROM audits.checkpoints c
                        WHERE c.tenant_id = m.tenant_id AND c.size > m.manifest_seq))
            LOOP
                RAISE EXCEPTION 'audits: nothing vouches for % in the log of %', month, log.tenant_id
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'each log needs a manifest of the month, a checkpoint over it and verified archives';
            END LOOP;
            EXECUTE format('ALTER TABLE audits.audit_log DETACH PARTITION %s', part);
            -- The row trigger came with the partition, and went with it.
            EXECUTE format('CREATE TRIGGER no_change BEFORE UPDATE OR DELETE ON %s'
                ' FOR EACH ROW EXECUTE FUNCTION audits.refuse()', part);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER no_change', part);
            UPDATE audits.manifests m SET state = 'retired' WHERE m.month = detach_month.month;
            INSERT INTO audits.retirements AS r (month, state, detach_time) VALUES (month, 'detached', now())
            ON CONFLICT ON CONSTRAINT retirements_pkey DO UPDATE SET state = 'detached', detach_time = now()
            WHERE r.state = 'planned';
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION drop_month(month date) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
        BEGIN
            PERFORM FROM audits.retirements r WHERE r.month = drop_month.month AND r.state = 'detached' FOR UPDATE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'audits: % has not been detached', month USING ERRCODE = 'insufficient_privilege';
            END IF;
            EXECUTE format('DROP TABLE IF EXISTS audits.%I', 'audit_log_' || to_char(month, 'YYYY_MM'));
            UPDATE audits.retirements r SET state = 'dropped', drop_time = now() WHERE r.month = drop_month.month;
        END $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION partition_of(date) FROM PUBLIC")
    _only(APP, "old_months(date)")
    for function in ("old_months(date)", "logs_of_month(date)", "detach_month(date)", "drop_month(date)"):
        _only(KEEPER, function)


def _always(table: str, name: str, moment: str, act: str) -> None:
    op.execute(f"CREATE TRIGGER {name} {moment} ON {table} {act}")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _only(role: str, function: str) -> None:
    op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
