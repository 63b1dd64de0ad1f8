-- Data keys: keys that rows are encrypted with, themselves wrapped under a
-- key-encryption key that is kept elsewhere (wrapper). Both are empty for
-- key-encryption keys that rows are encrypted with directly.
ALTER TABLE signer_keks ADD COLUMN wrapper {name};
ALTER TABLE signer_keks ADD COLUMN wrapped {bytes};

-- The signers that run: which key-encryption key each wraps new keys under,
-- and all that it knows, one a line.
CREATE TABLE signer_instances (
	id {name} NOT NULL,
	host {name} NOT NULL,
	kek {name} NOT NULL,
	known {bytes} NOT NULL,
	seen_at BIGINT NOT NULL,
	PRIMARY KEY (id)
) {table};
