-- Keys that are on a token: token says on which. They have nothing wrapped
-- (wrapped is empty, kek is not set). A dropped key is on its token as long as
-- this is set. One of incarnation 0 never became a repository's: it is being
-- made, or was when its signer died.
ALTER TABLE signer_keys ADD COLUMN token {name};

CREATE INDEX signer_keys_dropped ON signer_keys (state, token);
