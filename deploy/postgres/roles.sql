-- The roles and schemas of Triptych: one schema per service, and nobody sees another one's.
--
-- For any PostgreSQL 18 superuser and any database, again and again: it changes only what differs. It sets no
-- password: whoever applies it sets those of the logins (`triptych provision`, or ALTER ROLE by hand), so the same file
-- serves `triptych up`, compose and a database that somebody else runs.
--
--   triptych_<schema>_owner  NOLOGIN  owns the schema and what migrations create in it
--   triptych_<schema>_app    LOGIN    the service; migrations grant it verbs, table by table
--   triptych_<schema>_relay  LOGIN    the outbox relay; likewise
--   triptych_migrator        LOGIN    may SET ROLE to each owner, and inherits nothing
--
-- There are no default privileges: a table that no migration granted is a table that nobody but its owner reads.

DO $roles$
DECLARE
  schemas constant text[] := ARRAY['auth', 'projects', 'experiments', 'production', 'quarantine', 'providers', 'audits'];
  plain constant text := 'NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS';
  wanted record;
  present record;
BEGIN
  FOR wanted IN
    SELECT 'triptych_migrator' AS name, true AS login, NULL::text AS owner_of
    UNION ALL SELECT format('triptych_%s_owner', s), false, s FROM unnest(schemas) AS s
    UNION ALL SELECT format('triptych_%s_app', s), true, NULL FROM unnest(schemas) AS s
    UNION ALL SELECT format('triptych_%s_relay', s), true, NULL FROM unnest(schemas) AS s
  LOOP
    SELECT * INTO present FROM pg_roles WHERE rolname = wanted.name;
    IF NOT FOUND THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I %s %s', wanted.name, CASE WHEN wanted.login THEN 'LOGIN' ELSE 'NOLOGIN' END, plain);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;  -- somebody provisions another database of this cluster at the same moment
      END;
    ELSIF present.rolcanlogin <> wanted.login OR present.rolsuper OR present.rolcreatedb OR present.rolcreaterole
          OR present.rolreplication OR present.rolbypassrls THEN
      EXECUTE format('ALTER ROLE %I %s %s', wanted.name, CASE WHEN wanted.login THEN 'LOGIN' ELSE 'NOLOGIN' END, plain);
    END IF;
  END LOOP;
END
$roles$;

DO $grants$
DECLARE
  schemas constant text[] := ARRAY['auth', 'projects', 'experiments', 'production', 'quarantine', 'providers', 'audits'];
  s text;
  suffix text;
BEGIN
  -- Nobody is here by default.
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO triptych_migrator', current_database());
  REVOKE ALL ON SCHEMA public FROM PUBLIC;

  FOREACH s IN ARRAY schemas LOOP
    -- SET without INHERIT: the migrator has an owner's rights only after it says whose.
    IF NOT EXISTS (
      SELECT FROM pg_auth_members m
      WHERE m.roleid = format('triptych_%s_owner', s)::regrole AND m.member = 'triptych_migrator'::regrole
        AND m.set_option AND NOT m.inherit_option AND NOT m.admin_option
    ) THEN
      BEGIN
        EXECUTE format('GRANT triptych_%s_owner TO triptych_migrator WITH SET TRUE, INHERIT FALSE, ADMIN FALSE', s);
      EXCEPTION WHEN unique_violation THEN
        NULL;  -- likewise
      END;
    END IF;

    EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION triptych_%s_owner', s, s);
    EXECUTE format('ALTER SCHEMA %I OWNER TO triptych_%s_owner', s, s);
    EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', s);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO triptych_%s_app, triptych_%s_relay', s, s, s);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO triptych_%s_app, triptych_%s_relay', current_database(), s, s);
    FOREACH suffix IN ARRAY ARRAY['app', 'relay'] LOOP
      -- A service names its tables without their schema: it has only the one.
      IF NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = format('triptych_%s_%s', s, suffix)::regrole) THEN
        BEGIN
          EXECUTE format('ALTER ROLE triptych_%s_%s SET search_path = %I', s, suffix, s);
        EXCEPTION WHEN unique_violation THEN
          NULL;  -- likewise
        END;
      END IF;
    END LOOP;
  END LOOP;
END
$grants$;
