-- name: server
-- Asked before anything is set: a pooler may give this session to somebody else at once, settings and all.
-- And whether Immich's triggers are switched off for this role, which only a superuser's session may take back.
SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only')::boolean,
       current_setting('session_replication_role') <> 'origin' AND NOT current_setting('is_superuser')::boolean

-- name: backend
-- Which process of the server answers: behind a pooler it may be another one each time.
SELECT pg_backend_pid()

-- name: settings
-- A role and a database may have settings of their own (ALTER ROLE ... SET), and a server may. What our statements mean, and
-- whether they end, is none of that: all of it is set here. How much memory they may take is left as it is.
-- Quiet: our triggers do not tell us of what we write ourselves.
-- jit off: compiling costs more than any of our statements runs. Generic plans: the statements join a few
-- hundred ids by index, the same way each time, and planning each anew would double the latency. And no way of
-- joining is switched off.
-- The time limits keep a frozen statement or a waiting lock from holding Immich up. Idle we may be for hours, also
-- where the role or the server ends idle sessions. What stands behind a lock is to be read after the lock is ours:
-- no other isolation will do. The keepalives are the server's: the locks of a listener whose machine is gone go with
-- its session, which would otherwise last two hours.
-- What we update is stamped ahead (_face_sync.immich_uuid_v7): Immich's triggers find their functions by this path.
-- Immich's tables are in public; the types of its extensions may be elsewhere.
-- Not every PostgreSQL has all of these. The time limits come first: the others must have the time to be set.
SELECT set_config('statement_timeout', '60s', false),
       set_config('lock_timeout', '10s', false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('face_sync.quiet', 'on', false),
       set_config('search_path', (SELECT string_agg(quote_ident(path.name), ', ' ORDER BY path.number, path.name)
                                  FROM (SELECT '_face_sync' AS name, 1 AS number
                                        UNION SELECT 'public', 2
                                        UNION SELECT schema.nspname, 3
                                        FROM pg_extension AS extension
                                        JOIN pg_namespace AS schema ON schema.oid = extension.extnamespace
                                        WHERE schema.nspname NOT IN ('pg_catalog', 'public')) AS path), false),
       (SELECT count(set_config(there.name, wanted.value, false))
        FROM (VALUES ('idle_session_timeout', '0'),
                     ('transaction_timeout', '0'),
                     ('default_transaction_isolation', 'read committed'),
                     ('default_transaction_deferrable', 'off'),
                     ('tcp_keepalives_idle', '10'),
                     ('tcp_keepalives_interval', '5'),
                     ('tcp_keepalives_count', '3'),
                     ('tcp_user_timeout', '30s'),
                     ('exit_on_error', 'off'),
                     ('client_min_messages', 'warning'),
                     ('client_encoding', 'UTF8'),
                     ('standard_conforming_strings', 'on'),
                     ('backslash_quote', 'safe_encoding'),
                     ('quote_all_identifiers', 'off'),
                     ('array_nulls', 'on'),
                     ('transform_null_equals', 'off'),
                     ('bytea_output', 'hex'),
                     ('DateStyle', 'ISO, MDY'),
                     ('IntervalStyle', 'postgres'),
                     ('TimeZone', 'UTC'),
                     ('extra_float_digits', '1'),
                     ('xmlbinary', 'base64'),
                     ('xmloption', 'content'),
                     ('row_security', 'on'),
                     ('check_function_bodies', 'on'),
                     ('jit', 'off'),
                     ('plan_cache_mode', 'force_generic_plan')) AS wanted(name, value)
        JOIN pg_settings AS there ON lower(there.name) = lower(wanted.name)),
       (SELECT count(set_config(name, boot_val, false)) FROM pg_settings
        WHERE setting <> boot_val AND (starts_with(name, 'enable_') OR starts_with(name, 'geqo') OR name LIKE '%_collapse_limit')),
       CASE WHEN current_setting('session_replication_role') <> 'origin'
            THEN set_config('session_replication_role', 'origin', false) END

-- name: functions
-- Session functions live in pg_temp: nothing of ours is left in Immich's schema, and each statement can use
-- them as plain SQL. copy_id: the id of a copied row is the same at every try, and shaped as UUID version 4,
-- the only shape that Immich's API and its phones accept. ahead: an updateId of version 7 three seconds from
-- now, or as many milliseconds as the transaction says, so that no phone's mark passes a row before its transaction
-- commits. immich_setting: one of Immich's settings; the listener's own role may not read their table, which holds
-- passwords, and asks a function for those it needs.
-- below: is a path below a folder by the letter, whatever slashes and single dots mean nothing? One with two dots is below
-- none. The same rule as Layout.relative has.
DO $do$
BEGIN
    EXECUTE $create$
        CREATE OR REPLACE FUNCTION pg_temp.copy_id(source uuid, target_user uuid) RETURNS uuid
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
            SELECT overlay(overlay(digest.hex PLACING '4' FROM 13)
                           PLACING substr('89ab', 1 + ('x' || substr(digest.hex, 17, 1))::bit(4)::int % 4, 1) FROM 17)::uuid
            FROM (SELECT substr(encode(sha256(convert_to(source::text || '/' || target_user::text, 'UTF8')), 'hex'), 1, 32)) AS digest(hex)
        $body$
    $create$;
    EXECUTE $create$
        CREATE OR REPLACE FUNCTION pg_temp.ahead() RETURNS uuid
        LANGUAGE sql VOLATILE AS $body$
            SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint
                                + coalesce(nullif(current_setting('face_sync.ahead', true), '')::bigint, 3000)), 12, '0')
                    || '7' || substr(random.hex, 14, 3) || substr(random.hex, 17))::uuid
            FROM (SELECT replace(gen_random_uuid()::text, '-', '')) AS random(hex)
        $body$
    $create$;
    EXECUTE $create$
        CREATE OR REPLACE FUNCTION pg_temp.below(path text, folder text) RETURNS boolean
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
            SELECT strpos(path || '/', '/../') = 0
               AND CASE WHEN strpos(path || '/', '//') = 0 AND strpos(path || '/', '/./') = 0
                        THEN starts_with(path, folder || '/')
                        ELSE starts_with(regexp_replace(path || '/', '(/[.]?)+(?=/)', '', 'g'), folder || '/')
                             AND regexp_replace(path || '/', '(/[.]?)+(?=/)', '', 'g') <> folder || '/' END
        $body$
    $create$;
    EXECUTE $create$
        CREATE OR REPLACE FUNCTION pg_temp.begin_writing(lock_class integer, target_user uuid, job text) RETURNS boolean
        LANGUAGE plpgsql VOLATILE AS $body$
        BEGIN
            PERFORM pg_advisory_xact_lock(lock_class, hashtext(target_user::text));
            PERFORM set_config('lock_timeout', '200ms', true);
            IF coalesce(current_setting('face_sync.owner', true), '') = '' THEN
                RETURN true;
            END IF;
            RETURN EXISTS (SELECT FROM public._face_sync_meta AS meta
                           WHERE meta.key = 'owner ' || job AND meta.value = current_setting('face_sync.owner', true));
        END
        $body$
    $create$;
    EXECUTE $create$
        CREATE OR REPLACE FUNCTION pg_temp.immich_setting(wanted text) RETURNS jsonb
        LANGUAGE plpgsql STABLE AS $body$
        BEGIN
            IF has_column_privilege('public.system_metadata', 'value', 'SELECT') THEN
                RETURN (SELECT value FROM public.system_metadata WHERE key = wanted);
            END IF;
            RETURN _face_sync_role.immich_setting(wanted);
        END
        $body$
    $create$;
    BEGIN
        -- A statement whose client is gone ends within seconds, and its locks with it. Not every system can tell.
        PERFORM set_config('client_connection_check_interval', '2s', false);
    EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN
        NULL;
    END;
END
$do$

-- name: owner
-- Which process this session belongs to: it writes for the jobs that this process owns. The lock shows it to others.
SELECT set_config('face_sync.owner', %(owner)s::text, false),
       pg_advisory_lock_shared(%(lock_class)s, hashtext(%(owner)s::text))

-- name: end_former
-- Sessions that this process has given up and the server has not missed yet: a frozen wire may keep them, and the
-- locks of our jobs with them, for as long as it likes.
SELECT pg_terminate_backend(pid)
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %(lock_class)s::bigint::oid
  AND objid = (hashtext(%(owner)s::text)::bigint & 4294967295)::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND pid <> pg_backend_pid()

-- name: hold_process
SELECT pg_advisory_lock_shared(%(lock_class)s, hashtext(%(owner)s::text))

-- name: serialise
-- One writer at a time for each target user: two batches that share a person would otherwise deadlock, or
-- one would drop a person that the other is just giving a face.
-- From then on no lock is waited for longer than a moment: where Immich and we wait for each other, it must be
-- us who give way, before PostgreSQL looks for a deadlock (after a second) and ends Immich's statement.
-- False if the job is another process's by now: whoever takes a job over notes it under the same lock, so that a
-- process which was thought dead, and is not, cannot write any more. A function, since what stands behind the
-- lock is to be read after it was waited for.
SELECT pg_temp.begin_writing(%(lock_class)s, %(target_user)s, %(job)s)
