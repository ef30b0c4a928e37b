"""The guards of the schema as lines of text, read from the catalogs as the service's own role sees them.

A line says what something is and everything about it that a guard depends on. It is one line whatever is in a name, and
has no id of a row, so that a restored database has the lines of the one that was saved.
"""

from services.kit.db import Transaction

_GRANTS = "coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest({0}) a), '-')"
_READ = f"""
WITH RECURSIVE tree AS (
    SELECT c.oid FROM pg_class c
    WHERE c.relnamespace = 'audits'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent),
relations AS (
    SELECT c.*, CASE WHEN c.relnamespace = 'audits'::regnamespace THEN '' ELSE c.relnamespace::regnamespace || '.' END
        || c.relname AS label
    FROM tree JOIN pg_class c ON c.oid = tree.oid),
functions AS (
    SELECT p.* FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE nspname IN ('audits', 'triptych_guards')),
roles AS (SELECT * FROM pg_roles WHERE rolname LIKE 'triptych\\_audits\\_%' OR rolname = 'triptych_migrator')
SELECT 'database: grants ' || {_GRANTS.format("datacl")} AS fact FROM pg_database WHERE datname = current_database()
UNION ALL
SELECT 'schema ' || nspname || ': owner ' || pg_get_userbyid(nspowner) || ', grants ' || {_GRANTS.format("nspacl")}
FROM pg_namespace WHERE nspname IN ('audits', 'triptych_guards')
UNION ALL
SELECT 'rights by default of ' || pg_get_userbyid(defaclrole) || ' on ' || defaclobjtype::text || ': '
    || {_GRANTS.format("defaclacl")}
FROM pg_default_acl WHERE defaclnamespace = 'audits'::regnamespace
    OR pg_get_userbyid(defaclrole) = 'triptych_audits_owner'
UNION ALL
SELECT 'table ' || label || ': kind ' || relkind::text || ', owner ' || pg_get_userbyid(relowner) || ', row security '
    || relrowsecurity || ', forced ' || relforcerowsecurity || ', partition '
    || coalesce(pg_get_expr(relpartbound, oid), '-') || ', of '
    || coalesce((SELECT string_agg(inhparent::regclass || CASE WHEN inhdetachpending THEN ' (leaving)' ELSE '' END, ' '
        ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = relations.oid), '-')
    || ', persistence ' || relpersistence::text || ', tablespace ' || reltablespace
    || ', identity ' || relreplident::text
    || ', options ' || coalesce(array_to_string(reloptions, ' '), '-') || ', grants ' || {_GRANTS.format("relacl")}
    || CASE relkind WHEN 'v' THEN ', source ' || encode(sha256(convert_to(pg_get_viewdef(oid), 'UTF8')), 'hex')
        ELSE '' END
FROM relations
UNION ALL
SELECT 'column ' || label || '.' || attname || ': ' || format_type(atttypid, atttypmod) || ', not null '
    || attnotnull || ', generated ' || CASE attgenerated WHEN '' THEN '-' ELSE attgenerated::text || ' '
        || pg_get_expr(d.adbin, d.adrelid) END
    || ', default ' || CASE WHEN attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '-') ELSE '-' END
    || ', identity ' || coalesce(nullif(attidentity::text, ''), '-') || ', collation '
    || coalesce((SELECT collname::text FROM pg_collation WHERE oid = attcollation), '-')
    || ', grants ' || {_GRANTS.format("attacl")}
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum WHERE r.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'constraint ' || label || '.' || conname || ': ' || pg_get_constraintdef(k.oid)
    || CASE WHEN convalidated THEN '' ELSE ' not valid' END
FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) || ', valid ' || (indisvalid AND indisready AND indislive)
    || ', unique at once ' || (indisunique AND indimmediate)
FROM relations r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'trigger ' || label || '.' || tgname || ': enabled ' || tgenabled::text || ', ' || pg_get_triggerdef(t.oid)
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT tgisinternal
UNION ALL
SELECT 'keys of ' || label || ': checked by ' || count(*) || ' triggers, enabled '
    || string_agg(DISTINCT tgenabled::text, ' ' ORDER BY tgenabled::text)
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND tgisinternal GROUP BY label
UNION ALL
SELECT 'policy ' || label || '.' || polname || ': for ' || polcmd::text || ', permissive ' || polpermissive
    || ', to ' || (SELECT string_agg(CASE o WHEN 0 THEN 'public' ELSE pg_get_userbyid(o) END, ' ' ORDER BY o)
        FROM unnest(polroles) o)
    || ', using ' || coalesce(pg_get_expr(polqual, polrelid), '-')
    || ', check ' || coalesce(pg_get_expr(polwithcheck, polrelid), '-')
FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT 'rule ' || label || '.' || rulename || ': enabled ' || ev_enabled::text || ', ' || pg_get_ruledef(w.oid)
FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
UNION ALL
SELECT 'function ' || p.oid::regprocedure || ': owner ' || pg_get_userbyid(proowner) || ', definer ' || prosecdef
    || ', language ' || (SELECT lanname FROM pg_language WHERE oid = prolang) || ', kind ' || prokind::text
    || ', volatile ' || provolatile::text || ', strict ' || proisstrict || ', leakproof ' || proleakproof
    || ', arguments ' || pg_get_function_arguments(p.oid)
    || ', returns ' || coalesce(pg_get_function_result(p.oid), '-')
    || ', settings ' || coalesce(array_to_string(proconfig, ' '), '-') || ', source '
    || encode(sha256(convert_to(prosrc || coalesce(pg_get_function_sqlbody(p.oid), ''), 'UTF8')), 'hex')
    || ', grants ' || {_GRANTS.format("proacl")}
FROM functions p
UNION ALL
SELECT 'object ' || pg_describe_object(classid, objid, 0)
FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'audits'::regnamespace
    AND classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass)
    AND NOT (classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type WHERE oid = objid AND typrelid <> 0))
UNION ALL
SELECT 'cast ' || castsource::regtype || ' as ' || casttarget::regtype || ': ' || castcontext::text
FROM pg_cast JOIN pg_type t ON t.oid IN (castsource, casttarget) WHERE t.typnamespace = 'audits'::regnamespace
UNION ALL
SELECT 'event trigger ' || evtname || ': enabled ' || evtenabled::text || ', on ' || evtevent || ', owner '
    || pg_get_userbyid(evtowner) || ', runs ' || evtfoid::regprocedure || ', source '
    || (SELECT encode(sha256(convert_to(prosrc, 'UTF8')), 'hex') FROM pg_proc WHERE oid = evtfoid)
FROM pg_event_trigger
UNION ALL
SELECT 'role ' || rolname || ': superuser ' || rolsuper || ', login ' || rolcanlogin || ', passes row security '
    || rolbypassrls || ', creates roles ' || rolcreaterole || ', creates databases ' || rolcreatedb || ', replicates '
    || rolreplication || ', settings ' || coalesce(array_to_string(rolconfig, ' '), '-') || ', member of '
    || coalesce((SELECT string_agg(pg_get_userbyid(roleid)
        || CASE WHEN inherit_option THEN '' ELSE ' (not inherited)' END, ' ' ORDER BY pg_get_userbyid(roleid))
        FROM pg_auth_members m WHERE m.member = roles.oid), '-')
    || ', members ' || coalesce((SELECT string_agg(pg_get_userbyid(member), ' ' ORDER BY pg_get_userbyid(member))
        FROM pg_auth_members m WHERE m.roleid = roles.oid), '-')
FROM roles
UNION ALL
SELECT 'powers of ' || rolname || ': ' || concat_ws(' ', CASE WHEN rolsuper THEN 'superuser' END,
    CASE WHEN rolbypassrls THEN 'passes row security' END, member_of)
FROM pg_roles r LEFT JOIN (
    SELECT member, string_agg(pg_get_userbyid(roleid), ' ' ORDER BY pg_get_userbyid(roleid)) AS member_of
    FROM pg_auth_members WHERE pg_get_userbyid(roleid) IN ('pg_read_all_data', 'pg_write_all_data', 'pg_maintain',
        'pg_write_server_files', 'pg_execute_server_program', 'pg_create_subscription')
    GROUP BY member) m ON m.member = r.oid
WHERE rolname !~ '^pg_' AND (rolsuper OR rolbypassrls OR member_of IS NOT NULL)
"""


async def read(tx: Transaction) -> tuple[str, ...]:
    """Give the lines, in order."""
    rows = await tx.connection.fetch(_READ)
    return tuple(sorted({" ".join(row["fact"].split("\n")) for row in rows}))
