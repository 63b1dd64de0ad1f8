-- One row. seq numbers commits and deletions, change_id the changefeed; both
-- are taken in the transaction that uses them, so they rise in commit order.
CREATE TABLE counters (
	id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	seq BIGINT NOT NULL,
	change_id BIGINT NOT NULL
) {table};

INSERT INTO counters (id, seq, change_id) VALUES (1, 0, 0);

-- Every repository that ever was. id is the seq of its very first commit,
-- incarnation the seq of the first commit since it was last deleted.
CREATE TABLE repositories (
	id BIGINT NOT NULL PRIMARY KEY,
	gun {name} NOT NULL UNIQUE,
	incarnation BIGINT NOT NULL,
	seq BIGINT NOT NULL UNIQUE,
	deleted INTEGER NOT NULL CHECK (deleted IN (0, 1)),
	CHECK (seq >= incarnation AND incarnation >= id)
) {table};

-- The bytes of files, compressed. With a base, they are compressed against the
-- bytes of that blob. height is the length of the longest chain of blobs that
-- hang on this one.
CREATE TABLE blobs (
	digest {digest} NOT NULL PRIMARY KEY,
	length BIGINT NOT NULL CHECK (length > 0),
	base {digest} NULL,
	height INTEGER NOT NULL CHECK (height >= 0),
	data {bytes} NOT NULL,
	FOREIGN KEY (base) REFERENCES blobs (digest)
) {table};

CREATE INDEX blobs_base ON blobs (base);

-- Every file of the history that is kept. incarnation is the role's: the seq
-- of the commit in which the role came, or came back. retired is when a newer
-- file, a drop or a deletion took its place, and 0 before that, and until it is
-- written down, which takes up to an hour after a commit; a root is only retired
-- by deletion, because all roots together are one chain. packed says
-- that the packer is done with it. Times are microseconds since 1970.
CREATE TABLE files (
	repository BIGINT NOT NULL,
	incarnation BIGINT NOT NULL,
	role {name} NOT NULL,
	version BIGINT NOT NULL CHECK (version > 0),
	digest {digest} NOT NULL,
	created BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	retired BIGINT NOT NULL,
	packed INTEGER NOT NULL CHECK (packed IN (0, 1)),
	PRIMARY KEY (repository, incarnation, role, version),
	FOREIGN KEY (repository) REFERENCES repositories (id),
	FOREIGN KEY (digest) REFERENCES blobs (digest)
) {table};

CREATE INDEX files_lookup ON files (repository, role, digest);

CREATE INDEX files_digest ON files (digest);

CREATE INDEX files_expiring ON files (role, retired, expires);

CREATE INDEX files_packing ON files (packed, retired);

-- The current file of each role, and the highest version ever stored for it.
CREATE TABLE roles (
	repository BIGINT NOT NULL,
	role {name} NOT NULL,
	incarnation BIGINT NOT NULL,
	version BIGINT NOT NULL,
	highest BIGINT NOT NULL,
	PRIMARY KEY (repository, role),
	CHECK (highest >= version),
	FOREIGN KEY (repository, incarnation, role, version) REFERENCES files (repository, incarnation, role, version)
) {table};

CREATE TABLE changes (
	id BIGINT NOT NULL PRIMARY KEY,
	gun {name} NOT NULL,
	version BIGINT NOT NULL,
	digest {digest} NULL,
	created BIGINT NOT NULL
) {table};

CREATE INDEX changes_gun ON changes (gun, id);
