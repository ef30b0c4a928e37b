-- What keeps the owner of the audit log's schema, and whoever may become it, from taking its guards away.
--
-- For a PostgreSQL 18 superuser, after roles.sql, again and again. All of it stands in a schema that the owner of `audits`
-- cannot change. The schema is sealed with the migration that reaches the newest revision: from then on its owner runs no
-- DDL at all, anywhere. Only what the service needs is let through, the months that its functions make, detach and drop.
--
--   SELECT triptych_guards.admit('0007')   a superuser, before that migration: opens the schema for an hour
--   SELECT triptych_guards.seal('0007')    the migration itself: closes it again
--
-- `triptych provision` and `triptych up` admit the revision that they come with, when it is newer than the one sealed.
-- While the schema is open, a migration still cannot disable a trigger, add a rule, drop or rewrite a table, take row-level
-- security off or detach a month: for that, a superuser says SET event_triggers = off. What was changed while it was open,
-- what months came and went, and what a superuser changed without saying so, is in `changes`, also when it was put back.
--
-- A superuser who says so leaves no line there. That, and what was done then, shows in the guard hash of the audit
-- service and in the signed checkpoints.

SET event_triggers = off;

CREATE SCHEMA IF NOT EXISTS triptych_guards;
REVOKE ALL ON SCHEMA triptych_guards FROM PUBLIC;

CREATE TABLE IF NOT EXISTS triptych_guards.state (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  sealed boolean NOT NULL DEFAULT false,
  revision text,  -- the one that was sealed
  admitted text,  -- the one that a migration may go to
  change_time timestamptz NOT NULL DEFAULT now());

-- Every catalog row of the schema, as it was known last.
CREATE TABLE IF NOT EXISTS triptych_guards.known (
  kind text, name text, month boolean NOT NULL, digest text NOT NULL,
  PRIMARY KEY (kind, name));

CREATE TABLE IF NOT EXISTS triptych_guards.changes (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  change_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  session_name text NOT NULL,
  role_name text NOT NULL,
  act text NOT NULL,
  details text[] NOT NULL);

-- Whose rights a command has: `role` says it also inside of a SECURITY DEFINER function, where it cannot be set.
CREATE OR REPLACE FUNCTION triptych_guards.acting() RETURNS name
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(nullif(current_setting('role'), 'none'), session_user::text)::name
$$;

CREATE OR REPLACE FUNCTION triptych_guards.powerful() RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = triptych_guards.acting() AND rolsuper)
$$;

-- The service's own logins can run no DDL by themselves, only through functions that the seal covers.
CREATE OR REPLACE FUNCTION triptych_guards.serving() RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT session_user IN ('triptych_audits_app', 'triptych_audits_relay')
$$;

-- Those whose commands can change the schema: superusers, its owner, and whoever inherits from that.
CREATE OR REPLACE FUNCTION triptych_guards.concerned() RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT triptych_guards.serving() OR pg_has_role(triptych_guards.acting(), 'triptych_audits_owner', 'USAGE')
$$;

-- Whether a migration may change the schema now: before the first one, and for an hour after it was admitted.
CREATE OR REPLACE FUNCTION triptych_guards.open() RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM triptych_guards.known) OR EXISTS (
    SELECT FROM triptych_guards.state WHERE NOT sealed AND change_time > clock_timestamp() - interval '1 hour')
$$;

-- The schema as the catalogs have it: whole rows, so that nothing is left out for not having been thought of. Left out
-- are columns that change without a command. Rows of a month are marked: these come and go.
CREATE OR REPLACE FUNCTION triptych_guards.present() RETURNS TABLE (kind text, name text, month boolean, digest text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
  WITH RECURSIVE tree AS (
    SELECT c.oid FROM pg_class c WHERE c.relnamespace = to_regnamespace('audits') AND c.relkind <> 't'
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent),
  relations AS (
    SELECT c.*, coalesce(x.indrelid, c.oid) AS base
    FROM tree JOIN pg_class c ON c.oid = tree.oid LEFT JOIN pg_index x ON x.indexrelid = c.oid),
  named AS (
    SELECT r.oid, r.oid::regclass::text AS label,
      b.relnamespace = to_regnamespace('audits') AND b.relname ~ '^audit_log_\d{4}_\d{2}$' AS month
    FROM relations r JOIN pg_class b ON b.oid = r.base),
  found AS (
    SELECT 'schema' AS kind, nspname::text AS name, false AS month, to_jsonb(n) AS content
    FROM pg_namespace n WHERE n.oid = to_regnamespace('audits')
    UNION ALL
    SELECT CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
        ELSE 'table' END, label, month, to_jsonb(c) - ARRAY['relpages', 'reltuples', 'relallvisible', 'relallfrozen',
        'relfrozenxid', 'relminmxid', 'relfilenode', 'reltoastrelid', 'relhasindex', 'relhasrules', 'relhastriggers',
        'relhassubclass']
    FROM named JOIN pg_class c USING (oid)
    UNION ALL
    SELECT 'column', label || '.' || attname, month, to_jsonb(a) - ARRAY['atthasmissing', 'attmissingval']
    FROM named JOIN pg_attribute a ON a.attrelid = oid WHERE a.attnum > 0
    UNION ALL
    SELECT 'default', label || '.' || d.adnum, month, to_jsonb(d) FROM named JOIN pg_attrdef d ON d.adrelid = named.oid
    UNION ALL
    SELECT 'constraint', label || '.' || k.conname, month, to_jsonb(k)
    FROM named JOIN pg_constraint k ON k.conrelid = named.oid
    UNION ALL
    SELECT 'properties of the index', label, month, to_jsonb(x) - 'indcheckxmin'
    FROM named JOIN pg_index x ON x.indexrelid = named.oid
    UNION ALL
    SELECT 'trigger', label || '.' || t.tgname, month, to_jsonb(t) FROM named JOIN pg_trigger t ON t.tgrelid = named.oid
    UNION ALL
    SELECT 'policy', label || '.' || p.polname, month, to_jsonb(p) FROM named JOIN pg_policy p ON p.polrelid = named.oid
    UNION ALL
    SELECT 'rule', label || '.' || w.rulename, month, to_jsonb(w) FROM named JOIN pg_rewrite w ON w.ev_class = named.oid
    UNION ALL
    SELECT 'parent of', label || ': ' || i.inhparent::regclass, month, to_jsonb(i)
    FROM named JOIN pg_inherits i ON i.inhrelid = named.oid
    UNION ALL
    SELECT 'partitioning', label, month, to_jsonb(p) FROM named JOIN pg_partitioned_table p ON p.partrelid = named.oid
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, false, to_jsonb(p)
    FROM pg_proc p WHERE p.pronamespace = to_regnamespace('audits')
    UNION ALL
    SELECT 'type', t.oid::regtype::text, coalesce(n.month, false), to_jsonb(t)
    FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
      LEFT JOIN named n ON n.oid IN (t.typrelid, e.typrelid)
    WHERE t.typnamespace = to_regnamespace('audits')
    UNION ALL
    SELECT 'right by default', a.oid::text, false, to_jsonb(a) FROM pg_default_acl a
    WHERE a.defaclnamespace = to_regnamespace('audits') OR a.defaclrole = to_regrole('triptych_audits_owner')),
  -- Whatever else hangs on any of that: casts, operators, publications, statistics, foreign keys of others, extensions.
  bases AS (
    SELECT 'pg_namespace'::regclass AS class, to_regnamespace('audits')::oid AS object, false AS month
    UNION ALL SELECT 'pg_class'::regclass, oid, month FROM named
    UNION ALL SELECT 'pg_proc'::regclass, p.oid, false FROM pg_proc p WHERE p.pronamespace = to_regnamespace('audits')
    UNION ALL SELECT 'pg_type'::regclass, t.oid, coalesce(n.month, false) FROM pg_type t
      LEFT JOIN named n ON n.oid = t.typrelid WHERE t.typnamespace = to_regnamespace('audits')),
  hanging AS (
    SELECT d.classid, d.objid, bool_or(month) AS month, string_agg(DISTINCT d.deptype::text, '' ORDER BY d.deptype::text) AS how
    FROM bases JOIN pg_depend d ON d.refclassid = class AND d.refobjid = object
    WHERE d.classid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass,
      'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_rewrite'::regclass, 'pg_proc'::regclass)
      OR d.classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_constraint k WHERE k.oid = d.objid
        AND NOT EXISTS (SELECT FROM tree WHERE tree.oid = k.conrelid))
    GROUP BY 1, 2),
  bound AS (
    SELECT d.classid, d.objid, 'e' AS how FROM bases JOIN pg_depend d ON d.classid = class AND d.objid = object
    WHERE d.deptype IN ('e', 'x'))
  SELECT kind, name, bool_or(month), encode(sha256(convert_to(string_agg(content::text, ' ' ORDER BY content::text), 'UTF8')), 'hex')
  FROM found GROUP BY 1, 2
  UNION ALL
  SELECT 'what hangs on it', pg_describe_object(classid, objid, 0), bool_or(month), string_agg(how, ' ' ORDER BY how)
  FROM hanging GROUP BY 2
  UNION ALL
  SELECT 'part of an extension', pg_describe_object(classid, objid, 0), false, 'e' FROM bound GROUP BY 2
$$;

-- What is not as it was known.
CREATE OR REPLACE FUNCTION triptych_guards.differences() RETURNS TABLE (kind text, name text, month boolean, how text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(p.kind, k.kind), coalesce(p.name, k.name), coalesce(p.month, k.month),
    CASE WHEN k.kind IS NULL THEN 'new' WHEN p.kind IS NULL THEN 'gone' ELSE 'changed' END
  FROM triptych_guards.present() p FULL JOIN triptych_guards.known k ON k.kind = p.kind AND k.name = p.name
  WHERE (p.digest, p.month) IS DISTINCT FROM (k.digest, k.month) ORDER BY 3, 1, 2
$$;

-- Take the schema as it is for known, and note what was new about it; or the months of it alone.
CREATE OR REPLACE FUNCTION triptych_guards.note(act text, months boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text[];
BEGIN
  SELECT array_agg(format('%s %s %s', d.how, d.kind, d.name)) INTO found
  FROM triptych_guards.differences() d WHERE d.month OR NOT months;
  IF found IS NULL THEN
    RETURN;
  END IF;
  DELETE FROM triptych_guards.known k WHERE k.month OR NOT months;
  INSERT INTO triptych_guards.known SELECT p.kind, p.name, p.month, p.digest
  FROM triptych_guards.present() p WHERE p.month OR NOT months;
  INSERT INTO triptych_guards.changes (session_name, role_name, act, details)
  VALUES (session_user, triptych_guards.acting(), act, found);
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.seal(revision text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  present triptych_guards.state;
BEGIN
  SELECT * INTO present FROM triptych_guards.state FOR UPDATE;
  IF NOT FOUND OR present.sealed OR present.admitted IS DISTINCT FROM seal.revision THEN
    RETURN false;
  END IF;
  IF EXISTS (SELECT FROM triptych_guards.known) THEN
    PERFORM triptych_guards.note('seal ' || seal.revision, false);
  ELSE  -- the first one: everything is new
    INSERT INTO triptych_guards.known SELECT p.kind, p.name, p.month, p.digest FROM triptych_guards.present() p;
  END IF;
  UPDATE triptych_guards.state s
  SET sealed = true, revision = seal.revision, admitted = NULL, change_time = clock_timestamp();
  INSERT INTO triptych_guards.changes (session_name, role_name, act, details)
  VALUES (session_user, triptych_guards.acting(), 'seal ' || seal.revision, ARRAY['the schema is sealed']);
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.admit(revision text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  present triptych_guards.state;
BEGIN
  INSERT INTO triptych_guards.state DEFAULT VALUES ON CONFLICT DO NOTHING;
  SELECT * INTO present FROM triptych_guards.state FOR UPDATE;
  IF to_regclass('audits.audit_log') IS NOT NULL THEN  -- what was done past the event triggers
    PERFORM triptych_guards.note('admit ' || admit.revision, false);
  END IF;
  IF present.sealed AND present.revision COLLATE "C" >= admit.revision COLLATE "C" THEN
    RETURN false;
  END IF;
  UPDATE triptych_guards.state s SET sealed = false, admitted = admit.revision, change_time = clock_timestamp();
  INSERT INTO triptych_guards.changes (session_name, role_name, act, details)
  VALUES (session_user, triptych_guards.acting(), 'admit ' || admit.revision, ARRAY['the schema is open for a migration']);
  RETURN true;
END $$;

-- What is not as it was sealed, for the service to tell. Months are its own.
CREATE OR REPLACE FUNCTION triptych_guards.deviations() RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%s %s %s', d.how, d.kind, d.name) FROM triptych_guards.differences() d
$$;

-- Before any DDL. Some of it commits in the middle (DETACH PARTITION … CONCURRENTLY), and is too late to refuse at its end.
CREATE OR REPLACE FUNCTION triptych_guards.halt() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT triptych_guards.concerned() THEN
    RETURN;
  END IF;
  -- One after the other, before they lock tables. A transaction that still sees the schema open ends here: its snapshot
  -- is older than the seal.
  PERFORM FROM triptych_guards.state FOR UPDATE;
  IF NOT triptych_guards.serving() AND NOT triptych_guards.powerful() AND NOT triptych_guards.open() THEN
    RAISE EXCEPTION 'the audit log is guarded: its owner may not run % outside of a migration', tg_tag
      USING ERRCODE = 'insufficient_privilege', HINT = 'a superuser admits one: apply guards.sql with triptych provision';
  END IF;
END $$;

-- After any DDL.
CREATE OR REPLACE FUNCTION triptych_guards.keep() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text;
BEGIN
  IF NOT triptych_guards.serving() THEN
    found := triptych_guards.disarmed();
    IF found IS NOT NULL THEN
      RAISE EXCEPTION 'the audit log is guarded: %', found USING ERRCODE = 'insufficient_privilege';
    END IF;
  END IF;
  IF NOT triptych_guards.concerned() THEN
    RETURN;
  END IF;
  PERFORM FROM triptych_guards.state FOR UPDATE;
  IF NOT EXISTS (SELECT FROM triptych_guards.known) THEN
    RETURN;
  END IF;
  IF triptych_guards.serving() OR triptych_guards.powerful() OR triptych_guards.open() THEN
    PERFORM triptych_guards.note(tg_tag, triptych_guards.serving());
    RETURN;
  END IF;
  SELECT format('%s %s would be %s', d.kind, d.name, d.how) INTO found FROM triptych_guards.differences() d LIMIT 1;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'the audit log is guarded: %', found USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- What not even a migration may leave behind.
CREATE OR REPLACE FUNCTION triptych_guards.disarmed() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  home constant oid := to_regnamespace('audits');
  found text;
BEGIN
  SELECT format('the trigger %s of %s would be disabled', t.tgname, t.tgrelid::regclass) INTO found
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  WHERE c.relnamespace = home AND NOT t.tgisinternal AND t.tgenabled IN ('D', 'R') LIMIT 1;
  IF found IS NULL THEN
    SELECT format('the rule %s of %s would change what a statement does', r.rulename, r.ev_class::regclass) INTO found
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE c.relnamespace = home AND r.rulename <> '_RETURN' LIMIT 1;
  END IF;
  IF found IS NULL THEN
    SELECT format('the trigger %s of %s would run a function of another schema', t.tgname, t.tgrelid::regclass) INTO found
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE c.relnamespace = home AND NOT t.tgisinternal AND p.pronamespace <> home LIMIT 1;
  END IF;
  IF found IS NULL THEN
    SELECT format('row-level security of %s would be off', c.oid::regclass) INTO found
    FROM pg_class c
    WHERE c.relnamespace = home AND c.relkind IN ('r', 'p')
      AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
      AND (c.relispartition OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
      AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'no_truncation') LIMIT 1;
  END IF;
  IF found IS NULL THEN
    -- A partition that is detached has lost the triggers that it had from the log. A new one is empty until it is
    -- attached. Its size is asked, not its rows: nothing of the owner's is run with the rights of a superuser.
    SELECT format('%s would be detached from the log', c.oid::regclass) INTO found
    FROM pg_class c
    WHERE c.relnamespace = home AND c.relkind = 'r' AND NOT c.relispartition AND pg_relation_size(c.oid) > 0
      AND (c.relname ~ '^audit_log_\d{4}_\d{2}' OR EXISTS (SELECT FROM triptych_guards.known k
        WHERE k.kind = 'parent of' AND k.month AND k.name LIKE '%: audits.audit_log'
          AND split_part(k.name, ':', 1) = c.oid::regclass::text)) LIMIT 1;
  END IF;
  RETURN found;
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.hold() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text;
BEGIN
  -- A trigger, policy or rule names its table in its address: {schema, table, name}.
  SELECT format('%s %s', d.object_type, d.object_identity) INTO found
  FROM pg_event_trigger_dropped_objects() d
  WHERE NOT d.is_temporary AND CASE WHEN triptych_guards.serving() THEN
      -- The service drops months that it has detached, and the triggers that these had.
      d.object_type = 'table' AND d.schema_name = 'audits' AND (d.object_name !~ '^audit_log_\d{4}_\d{2}$'
        OR EXISTS (SELECT FROM triptych_guards.known k
          WHERE k.kind = 'parent of' AND split_part(k.name, ':', 1) = d.object_identity))
    ELSE
      -- Where nothing is known yet, a table of the log has triggers, and these are dropped with it.
      d.object_type = 'table' AND EXISTS (SELECT FROM triptych_guards.known k
        WHERE k.kind = 'table' AND k.name = d.object_identity)
      OR d.object_type IN ('trigger', 'policy') AND d.address_names[1] = 'audits'
      OR d.object_type = 'function' AND d.object_identity ~ '^audits\.(refuse|grow_\w+|keep_\w+)\('
    END
  LIMIT 1;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'the audit log is guarded: % cannot be dropped', found USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.preserve() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_class c WHERE c.oid = pg_event_trigger_table_rewrite_oid()
      AND c.relnamespace = to_regnamespace('audits')) THEN
    RAISE EXCEPTION 'the audit log is guarded: % cannot be rewritten', pg_event_trigger_table_rewrite_oid()::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA triptych_guards FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA triptych_guards FROM PUBLIC;
GRANT USAGE ON SCHEMA triptych_guards TO triptych_audits_owner, triptych_audits_app;
GRANT EXECUTE ON FUNCTION triptych_guards.seal(text) TO triptych_audits_owner;
GRANT EXECUTE ON FUNCTION triptych_guards.deviations() TO triptych_audits_app;
GRANT SELECT ON triptych_guards.state, triptych_guards.changes TO triptych_audits_app;

DO $triggers$
DECLARE
  wanted record;
BEGIN
  FOR wanted IN SELECT * FROM (VALUES
    ('triptych_halt', 'ddl_command_start', 'halt'), ('triptych_keep', 'ddl_command_end', 'keep'),
    ('triptych_hold', 'sql_drop', 'hold'), ('triptych_preserve', 'table_rewrite', 'preserve')) AS w (name, moment, act)
  LOOP
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = wanted.name) THEN
      EXECUTE format('CREATE EVENT TRIGGER %I ON %s EXECUTE FUNCTION triptych_guards.%I()', wanted.name, wanted.moment, wanted.act);
    END IF;
    EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', wanted.name);
  END LOOP;
END
$triggers$;

RESET event_triggers;
