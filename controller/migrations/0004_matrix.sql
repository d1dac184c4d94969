-- The matrix: which cells stand in it, and the latest state of each cell, whatever gate has found it.
DROP TABLE latest;

-- A digest covers application, region and fleet.
CREATE TABLE latest (
    digest TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    -- The slowest of each phase that was seen, as JSON.
    phases TEXT NOT NULL,
    -- When the first certificate of a presented chain ends.
    certificate_until INTEGER,
    verdict TEXT NOT NULL,
    release TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The cells of the release that is deployed; where none is, those of the latest gate.
CREATE TABLE shown (
    application TEXT NOT NULL,
    region TEXT NOT NULL,
    fleet TEXT NOT NULL,
    dependency TEXT NOT NULL,
    digest TEXT NOT NULL,
    deployed INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (application, region, fleet, dependency)
) STRICT, WITHOUT ROWID;
