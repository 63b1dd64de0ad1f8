-- The audit log: entries chained by their hashes, never changed.
CREATE TABLE signer_audit (
	id BIGINT NOT NULL,
	gun {name} NOT NULL,
	hash {digest} NOT NULL,
	entry {bytes} NOT NULL,
	PRIMARY KEY (id)
) {table};

CREATE INDEX signer_audit_gun ON signer_audit (gun, id);

-- Entries that were written together with what they tell of, and wait for
-- their place in the log; the signature leaves after they have it. Where there
-- is one writer at a time there are none.
CREATE TABLE signer_audit_waiting (
	id {name} NOT NULL,
	at BIGINT NOT NULL,
	gun {name} NOT NULL,
	entry {bytes} NOT NULL,
	PRIMARY KEY (id)
) {table};

-- One row, which everyone who appends to the log writes to first. cut and
-- cut_hash are the last entry that retention has removed.
CREATE TABLE signer_audit_end (
	id BIGINT NOT NULL,
	turn BIGINT NOT NULL,
	cut BIGINT NOT NULL,
	cut_hash {name} NOT NULL,
	PRIMARY KEY (id)
) {table};

INSERT INTO signer_audit_end (id, turn, cut, cut_hash) VALUES (1, 0, 0, '');
