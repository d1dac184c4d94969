-- What shipped where, each time it was recorded; the last one of an application and region is what is deployed there.
CREATE TABLE deployed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    application TEXT NOT NULL,
    region TEXT NOT NULL,
    release TEXT NOT NULL,
    -- The verdict that it shipped with; none where it shipped without one.
    verdict TEXT,
    -- What that verdict held as pass: a JSON object from cell digest to the verdict whose run has shown it.
    cells TEXT NOT NULL,
    -- Which kinds of hosts each fleet had then: a JSON object from fleet to keys.
    identities TEXT NOT NULL,
    at INTEGER NOT NULL,
    principal TEXT NOT NULL
) STRICT;
CREATE INDEX deployed_by_place ON deployed (application, region, id);

-- Who answered for which cell, and until when. Rows are only added, and withdrawn once.
CREATE TABLE override (
    id TEXT PRIMARY KEY,
    application TEXT NOT NULL,
    region TEXT NOT NULL,
    fleet TEXT NOT NULL,
    dependency TEXT NOT NULL,
    digest TEXT NOT NULL,
    verdict TEXT NOT NULL,
    principal TEXT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT NOT NULL,
    at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    withdrawn TEXT
) STRICT;
CREATE INDEX override_by_application ON override (application, expires_at);

-- Records of what was done without the controller: each is taken into the audit log once.
CREATE TABLE record (
    id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- What is in the audit log is not changed; the oldest entries are dropped, newest are kept.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- INSERT OR REPLACE would change an entry by deleting it first, without the trigger on UPDATE.
CREATE TRIGGER audit_is_only_added_to BEFORE INSERT ON audit
WHEN NEW.id IS NOT NULL AND EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
