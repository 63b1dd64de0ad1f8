-- A file by its version, whatever its role's incarnation: readers that walk
-- the chain of roots ask for one that is not there each time.
CREATE INDEX files_version ON files (repository, role, version);
