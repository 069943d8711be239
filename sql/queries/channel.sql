-- name: listen
-- The name is fixed: triggers installed by an older version of the listener must still be heard.
LISTEN immich_shared_library

-- name: notify
-- The proof of life goes the way of every notification: through the server's queue and back.
SELECT pg_notify(%(channel)s, %(payload)s)

-- name: listen_progress
-- Where a running listener tells those who asked for a sweep how far it is.
LISTEN immich_shared_library_progress
