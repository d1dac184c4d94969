-- Times are milliseconds since 1970-01-01T00:00:00Z by the controller's clock.

-- Every inventory that was applied; the last one counts.
CREATE TABLE inventory (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    applied_at INTEGER NOT NULL,
    applied_by TEXT NOT NULL
) STRICT;

-- Secrets are stored as SHA-256.
CREATE TABLE api_token (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE join_token (
    id TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    fleet TEXT NOT NULL,
    hash BLOB NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    source TEXT,
    created_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- One row for each agent that ever enrolled: the line that its certificates belong to.
CREATE TABLE agent (
    agent TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    fleet TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    identity TEXT,
    version TEXT,
    clock_skew_ms INTEGER,
    -- When it connected last, and when that connection ended: none while it is connected.
    connected_at INTEGER,
    gone_at INTEGER,
    -- It said goodbye, or was forgotten: it is no part of the fleet until it connects again.
    left_at INTEGER,
    revoked_at INTEGER,
    remark TEXT
) STRICT;

CREATE TABLE certificate (
    serial TEXT PRIMARY KEY,
    agent TEXT NOT NULL REFERENCES agent (agent),
    predecessor TEXT,
    not_after INTEGER NOT NULL,
    used_at INTEGER
) STRICT;
CREATE INDEX certificate_by_predecessor ON certificate (predecessor);
CREATE INDEX certificate_by_agent ON certificate (agent);

CREATE TABLE run (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,
    spec TEXT NOT NULL,
    principal TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    -- Set once, together with the result.
    ended_at INTEGER,
    result TEXT
) STRICT;
CREATE INDEX run_by_start ON run (started_at);

-- Who was asked, written before the question is sent.
CREATE TABLE question (
    run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    cell TEXT NOT NULL,
    agent TEXT NOT NULL,
    identity_key TEXT NOT NULL,
    PRIMARY KEY (run, cell, agent)
) STRICT, WITHOUT ROWID;

-- What was answered, written before the answer is acknowledged. The first answer of an agent stays.
CREATE TABLE testimony (
    run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    cell TEXT NOT NULL,
    agent TEXT NOT NULL,
    at INTEGER NOT NULL,
    late INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, cell, agent)
) STRICT, WITHOUT ROWID;

-- The latest state of every cell of every application.
CREATE TABLE latest (
    application TEXT NOT NULL,
    region TEXT NOT NULL,
    fleet TEXT NOT NULL,
    dependency TEXT NOT NULL,
    target TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    -- The slowest of each phase that was seen, as JSON.
    phases TEXT NOT NULL,
    -- When the first certificate of a presented chain ends.
    certificate_until INTEGER,
    verdict TEXT NOT NULL,
    release TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (application, region, fleet, dependency)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    principal TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    source TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
