-- Counts what was begun in the current incarnation, so that this and its end
-- are writes of one row, wherever they come from.
ALTER TABLE signer_repositories ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
