-- The address of the trust service of which the repository is a copy, to which
-- nobody publishes here; null: it is nobody's copy.
ALTER TABLE repositories ADD COLUMN mirror {name} NULL;
