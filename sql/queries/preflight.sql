-- name: job
-- Are the users, and the target's library, there and as the job says?
SELECT EXISTS (SELECT FROM "user" WHERE id = %(source_user)s AND "deletedAt" IS NULL),
       EXISTS (SELECT FROM "user" WHERE id = %(target_user)s AND "deletedAt" IS NULL),
       (SELECT "ownerId" FROM library WHERE id = %(library)s AND "deletedAt" IS NULL),
       (SELECT "exclusionPatterns" FROM library WHERE id = %(library)s)
