-- Two databases with an owner each: the server cannot touch what the signer
-- remembers.
CREATE ROLE trust LOGIN;
CREATE DATABASE trust OWNER trust ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE trust FROM PUBLIC;
CREATE ROLE signer LOGIN;
CREATE DATABASE signer OWNER signer ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE signer FROM PUBLIC;
