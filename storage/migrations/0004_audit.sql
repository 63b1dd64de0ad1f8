-- Who did what, one entry after the other; see database.Chain. Rows are never
-- changed, and never removed.
CREATE TABLE audit (
	id BIGINT NOT NULL PRIMARY KEY,
	gun {name} NOT NULL,
	hash {digest} NOT NULL,
	entry {bytes} NOT NULL
) {table};

CREATE INDEX audit_gun ON audit (gun, id);

-- The incarnations of repositories that were ended and not restored. seq is
-- the number of the deletion; began and ended are microseconds since 1970;
-- files is how many were current then, or are roots that led there.
CREATE TABLE endings (
	repository BIGINT NOT NULL,
	incarnation BIGINT NOT NULL,
	seq BIGINT NOT NULL UNIQUE,
	began BIGINT NOT NULL,
	ended BIGINT NOT NULL,
	act {name} NOT NULL,
	files BIGINT NOT NULL,
	PRIMARY KEY (repository, incarnation),
	FOREIGN KEY (repository) REFERENCES repositories (id)
) {table};

-- The deletion that ended the file's repository while the file was current, or
-- a root that led there; 0: none. What has one is kept as long as deleted
-- repositories are.
ALTER TABLE files ADD COLUMN ending BIGINT NOT NULL DEFAULT 0;

CREATE INDEX files_ending ON files (ending, retired);
