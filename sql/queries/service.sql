-- name: lock_job
-- One listener for each job. A lock of the session: it goes when the connection goes. Two integers, since
-- Immich locks with one.
SELECT pg_try_advisory_lock(%(lock_class)s, hashtext(%(job)s))

-- name: trigger_errors
-- How many errors the trigger function has caught since its sequence was made.
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public._face_sync_trigger_errors
