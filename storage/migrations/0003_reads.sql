-- When the repository was last read or published to, as far as the servers
-- have told, in microseconds since 1970. What nobody reads is not renewed in
-- advance.
ALTER TABLE repositories ADD COLUMN seen BIGINT NOT NULL DEFAULT 0;
