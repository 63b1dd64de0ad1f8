-- To see that a snapshot was signed here for another repository.
CREATE INDEX signer_statements_payload ON signer_statements (payload);
