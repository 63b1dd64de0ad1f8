-- The key-encryption keys that this table has been used with, by check value.
CREATE TABLE signer_keks (
	id {name} NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id)
) {table};

-- The current incarnation of each repository. Forget starts a new one.
CREATE TABLE signer_repositories (
	gun {name} NOT NULL,
	incarnation BIGINT NOT NULL,
	PRIMARY KEY (gun)
) {table};

-- slot is set while a key is pending, and unique then: one pending key for a
-- repository, role and type. A dropped key has no private half any more.
CREATE TABLE signer_keys (
	id {name} NOT NULL,
	gun {name} NOT NULL,
	incarnation BIGINT NOT NULL,
	role {name} NOT NULL,
	key_type {name} NOT NULL,
	public_key {bytes} NOT NULL,
	wrapped {bytes},
	kek {name},
	state {name} NOT NULL,
	slot {name},
	created_at BIGINT NOT NULL,
	first_used_at BIGINT,
	forgotten_at BIGINT,
	PRIMARY KEY (id),
	CONSTRAINT signer_keys_slot UNIQUE (slot),
	CONSTRAINT signer_keys_role CHECK (role IN ('snapshot', 'timestamp')),
	CONSTRAINT signer_keys_state CHECK (state IN ('pending', 'active', 'retired', 'dropped')),
	CONSTRAINT signer_keys_pending CHECK ((state = 'pending') = (slot IS NOT NULL)),
	CONSTRAINT signer_keys_wrapped CHECK ((state = 'dropped') = (wrapped IS NULL))
) {table};

CREATE INDEX signer_keys_gun ON signer_keys (gun, role);
CREATE INDEX signer_keys_kek ON signer_keys (kek);

-- What has been signed and what is known to have been published, for one
-- incarnation of a repository. seq is compared and swapped.
CREATE TABLE signer_ledger (
	gun {name} NOT NULL,
	incarnation BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	timestamp_signed BIGINT NOT NULL,
	timestamp_confirmed BIGINT NOT NULL,
	snapshot_signed BIGINT NOT NULL,
	snapshot_confirmed BIGINT NOT NULL,
	snapshot_named BIGINT NOT NULL,
	PRIMARY KEY (gun, incarnation)
) {table};

-- Everything that was signed, once a version: the primary key is what stands
-- between a mistake in the program and two truths of one version.
CREATE TABLE signer_statements (
	gun {name} NOT NULL,
	incarnation BIGINT NOT NULL,
	role {name} NOT NULL,
	version BIGINT NOT NULL,
	key_id {name} NOT NULL,
	payload {digest} NOT NULL,
	method {name} NOT NULL,
	signature {bytes} NOT NULL,
	expires_at BIGINT NOT NULL,
	signed_at BIGINT NOT NULL,
	PRIMARY KEY (gun, incarnation, role, version)
) {table};

CREATE INDEX signer_statements_expiry ON signer_statements (expires_at);
