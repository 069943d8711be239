-- name: trigger_errors
-- How many errors the trigger function has caught since its sequence was made.
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public._face_sync_trigger_errors
