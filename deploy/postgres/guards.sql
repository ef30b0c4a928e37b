-- Event triggers that keep the owner of the audit log's schema, and whoever may become it, from taking its guards away.
--
-- For a PostgreSQL 18 superuser, after roles.sql, again and again. They stand in a schema that the owner of `audits`
-- cannot change. They do not hold against a superuser, who can say SET event_triggers = off; that, and what was done then,
-- shows in the guard hash of the audit service and in the signed checkpoints. A migration that has to remove a table,
-- trigger or policy of the log is run by a superuser in that way.
--
--   after any DDL     no disabled trigger, no rule, no foreign trigger, no row-level security off, no filled partition apart
--   when dropping     no table, trigger, policy or trigger function of the log
--   when rewriting    no table of the log (ALTER COLUMN … TYPE … USING changes every row, past all row triggers)
--
-- Functions that the service's logins may call (SECURITY DEFINER; they can run no DDL by themselves) are let through.

CREATE SCHEMA IF NOT EXISTS triptych_guards;
REVOKE ALL ON SCHEMA triptych_guards FROM PUBLIC;

CREATE OR REPLACE FUNCTION triptych_guards.keep() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text;
  apart regclass;
  filled boolean;
BEGIN
  IF session_user IN ('triptych_audits_app', 'triptych_audits_relay') THEN
    RETURN;
  END IF;
  SELECT format('the trigger %s of %s would be disabled', t.tgname, t.tgrelid::regclass) INTO found
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  WHERE c.relnamespace = 'audits'::regnamespace AND NOT t.tgisinternal AND t.tgenabled IN ('D', 'R') LIMIT 1;
  IF found IS NULL THEN
    SELECT format('the rule %s of %s would change what a statement does', r.rulename, r.ev_class::regclass) INTO found
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE c.relnamespace = 'audits'::regnamespace AND r.rulename <> '_RETURN' LIMIT 1;
  END IF;
  IF found IS NULL THEN
    SELECT format('the trigger %s of %s would run a function of another schema', t.tgname, t.tgrelid::regclass) INTO found
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE c.relnamespace = 'audits'::regnamespace AND NOT t.tgisinternal
      AND p.pronamespace <> 'audits'::regnamespace LIMIT 1;
  END IF;
  IF found IS NULL THEN
    SELECT format('row-level security of %s would be off', c.oid::regclass) INTO found
    FROM pg_class c
    WHERE c.relnamespace = 'audits'::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
      AND (c.relispartition OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
      AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'no_truncation') LIMIT 1;
  END IF;
  -- A partition that is detached has lost the triggers that it had from the log. A new one is empty until it is attached.
  FOR apart IN SELECT c.oid FROM pg_class c
    WHERE c.relnamespace = 'audits'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
      AND c.relname ~ '^audit_log_\d{4}_\d{2}'
  LOOP
    EXIT WHEN found IS NOT NULL;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', apart) INTO filled;
    IF filled THEN
      found := format('%s would be detached from the log', apart);
    END IF;
  END LOOP;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'the audit log is guarded: %', found USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.hold() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found text;
BEGIN
  IF session_user IN ('triptych_audits_app', 'triptych_audits_relay') THEN
    RETURN;
  END IF;
  -- A trigger, policy or rule names its table in its address: {schema, table, name}.
  SELECT format('%s %s', d.object_type, d.object_identity) INTO found
  FROM pg_event_trigger_dropped_objects() d
  WHERE NOT d.is_temporary AND (
      d.object_type = 'table' AND d.schema_name = 'audits'
        AND d.object_name ~ '^(audit_log|dedup|head|tiles|checkpoints|heads|cosignatures|guard_states|statistics|manifests|archives|retirements)'
      OR d.object_type IN ('trigger', 'policy') AND d.address_names[1] = 'audits'
      OR d.object_type = 'function' AND d.object_identity IN ('audits.refuse()', 'audits.grow_head()', 'audits.grow_tile()',
        'audits.grow_statistics()', 'audits.keep_manifest()', 'audits.keep_archive()'))
  LIMIT 1;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'the audit log is guarded: % cannot be dropped', found USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION triptych_guards.preserve() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_class c WHERE c.oid = pg_event_trigger_table_rewrite_oid()
      AND c.relnamespace = 'audits'::regnamespace) THEN
    RAISE EXCEPTION 'the audit log is guarded: % cannot be rewritten', pg_event_trigger_table_rewrite_oid()::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA triptych_guards FROM PUBLIC;

DO $triggers$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'triptych_keep') THEN
    CREATE EVENT TRIGGER triptych_keep ON ddl_command_end EXECUTE FUNCTION triptych_guards.keep();
  END IF;
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'triptych_hold') THEN
    CREATE EVENT TRIGGER triptych_hold ON sql_drop EXECUTE FUNCTION triptych_guards.hold();
  END IF;
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'triptych_preserve') THEN
    CREATE EVENT TRIGGER triptych_preserve ON table_rewrite EXECUTE FUNCTION triptych_guards.preserve();
  END IF;
END
$triggers$;
