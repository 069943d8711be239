-- The role that the listener runs as: what `role print` writes, and what is asked of the catalog for it.

-- name: standing
-- The role whose rights are asked for: is it there, and what does it have that is not ours to give or take?
SELECT role.rolsuper,
       EXISTS (SELECT FROM pg_class AS class WHERE class.oid = 'public.asset'::regclass AND class.relowner = role.oid)
FROM pg_roles AS role WHERE role.rolname = %(name)s

-- name: lacking
-- Which of these rights the connected role lacks: column is null for one on the whole table.
SELECT wanted.privilege, wanted.relation, wanted.attribute
FROM unnest(%(privileges)s::text[], %(relations)s::text[], %(attributes)s::text[]) AS wanted(privilege, relation, attribute)
WHERE NOT CASE
    WHEN wanted.attribute IS NULL THEN has_table_privilege(format('public.%%I', wanted.relation), wanted.privilege)
    ELSE has_column_privilege(format('public.%%I', wanted.relation), wanted.attribute, wanted.privilege)
END
UNION ALL
SELECT 'EXECUTE', '_face_sync_role.immich_setting', NULL
WHERE NOT has_column_privilege(to_regclass('public.system_metadata'), 'value', 'SELECT')
  AND NOT EXISTS (
      SELECT FROM pg_proc AS function JOIN pg_namespace AS space ON space.oid = function.pronamespace
      WHERE space.nspname = '_face_sync_role' AND function.proname = 'immich_setting'
        AND has_schema_privilege(space.oid, 'USAGE') AND has_function_privilege(function.oid, 'EXECUTE'))
ORDER BY 2, 1, 3

-- name: head
-- The role for `listener run` of immich-shared-library, with the rights that this database's tables ask for.
-- Run it in this database as the role that Immich uses, after `listener triggers install`. Again after an upgrade of
-- Immich or of the listener, and after a restore of a backup: what the role had is taken back first.
-- `triggers install` and `triggers uninstall` need more than this: they go on as the role that Immich uses, which owns
-- the tables. A role that may make triggers on a table may do everything with it.
-- Immich's backups name this role: where one is restored on another server, make the role there first (the first
-- statement below), or the restore fails.
-- To be rid of it: DROP OWNED BY the role, DROP ROLE, and DROP SCHEMA _face_sync_role CASCADE.
BEGIN;

DO $role$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name_text}) THEN
        CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;
    END IF;
END
$role$;
-- It has no password yet: give it one with \password in psql.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {name};

-- The session's own functions live in pg_temp. No right to create anything elsewhere.
GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {name};
GRANT USAGE ON SCHEMA public TO {name};

-- Is Immich in maintenance, which folders has it marked, and where are its media? Beside that, the table holds the
-- settings of Immich's administrator, also a mail server's password: the role sees these three rows, by this function,
-- and not the table.
CREATE SCHEMA IF NOT EXISTS _face_sync_role;
CREATE OR REPLACE FUNCTION _face_sync_role.immich_setting(wanted text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $immich_setting$
  SELECT value FROM public.system_metadata WHERE key = wanted AND key IN ('maintenance-mode', 'system-flags', 'MediaLocation')
$immich_setting$;
REVOKE ALL ON FUNCTION _face_sync_role.immich_setting(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA _face_sync_role TO {name};
GRANT EXECUTE ON FUNCTION _face_sync_role.immich_setting(text) TO {name};

-- name: trigger_errors
-- How many errors the trigger function has caught.
GRANT SELECT ON SEQUENCE public._face_sync_trigger_errors TO {name};

-- name: grant_table
GRANT {privileges} ON public.{table} TO {name};
