-- Stamps what the listener updates three seconds ahead, or as many milliseconds as its transaction says, so that no phone has passed a row by the time that it is
-- committed. Immich's BEFORE UPDATE triggers stamp a row by a function of this name, without naming its schema; the
-- listener's sessions have _face_sync first in their search_path (session.sql). Nobody else's have, so that nobody
-- else's stamps are changed.
-- A whole of its own: whatever becomes of Immich's function, an update must not fail because of this one.
CREATE OR REPLACE FUNCTION _face_sync.immich_uuid_v7(p_timestamp timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $immich_uuid_v7$
  SELECT (lpad(to_hex((extract(epoch FROM p_timestamp) * 1000)::bigint
                       + coalesce(nullif(current_setting('face_sync.ahead', true), '')::bigint, 3000)), 12, '0')
          || '7' || substr(random.hex, 14, 3) || substr(random.hex, 17))::uuid
  FROM (SELECT replace(gen_random_uuid()::text, '-', '')) AS random(hex)
$immich_uuid_v7$;
-- The listener's own role finds it there. The other functions are for triggers, and cannot be called.
GRANT USAGE ON SCHEMA _face_sync TO PUBLIC
