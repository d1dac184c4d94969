-- What may ship where: the release guard of each application, as JSON. Its history is in the audit log.
CREATE TABLE guard (
    application TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    -- One more with each change, so that what rests on a state can be stored only while it is the state.
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The quarantined release that an override is for; none where it is for a cell.
ALTER TABLE override ADD COLUMN release TEXT;
