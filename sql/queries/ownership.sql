-- name: lock_job
-- One listener for each job. A lock of the session: it goes when the connection goes. Two integers, since
-- Immich locks with one.
SELECT pg_try_advisory_lock(%(lock_class)s, hashtext(%(job)s))

-- name: unlock_job
SELECT pg_advisory_unlock(%(lock_class)s, hashtext(%(job)s))

-- name: take_over
-- From now on nobody else writes for this job: see serialise in session.sql.
INSERT INTO public._face_sync_meta AS meta (key, value) VALUES ('owner ' || %(job)s, %(owner)s::text)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value <> excluded.value

-- name: is_served
-- Whether some session holds the job. Advisory locks of two integers have objsubid 2.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2
      AND classid = %(lock_class)s::bigint::oid AND objid = (hashtext(%(job)s)::bigint & 4294967295)::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
