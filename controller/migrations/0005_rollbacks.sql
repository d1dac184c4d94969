-- Where a rollback was asked for, or told of later: the last deployment that was recorded there by then is no baseline any more.
CREATE TABLE rollback (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    application TEXT NOT NULL,
    region TEXT NOT NULL,
    -- The record of that deployment; 0 where there was none.
    deployed INTEGER NOT NULL,
    -- The run that it was asked for with; none where it was recorded.
    run TEXT
) STRICT;
CREATE INDEX rollback_by_place ON rollback (application, region, id);

-- From here on each cell says from which kinds of hosts it was shown: `cells` is a JSON object from cell digest to the verdict whose
-- run has shown it and an index into `kinds`, a JSON array of sets of keys. What was kept by fleet proves nothing.
ALTER TABLE deployed RENAME COLUMN identities TO kinds;
UPDATE deployed SET cells = '{}', kinds = '[]';
