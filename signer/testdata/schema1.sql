-- A signer's table of schema version 1, which has signed two states of a repository; schema1-*.json are the second one.
BEGIN TRANSACTION;
CREATE TABLE schema_migrations (
		component TEXT NOT NULL,
		number INTEGER NOT NULL,
		name TEXT NOT NULL,
		applied_at BIGINT NOT NULL,
		PRIMARY KEY (component, number)
	);
INSERT INTO schema_migrations VALUES('signer',1,'signer',1795891428);
CREATE TABLE signer_keks (
	id TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO signer_keks VALUES('9ae7884e2bc5287b',1795891428);
CREATE TABLE signer_repositories (
	gun TEXT NOT NULL,
	incarnation BIGINT NOT NULL,
	PRIMARY KEY (gun)
);
INSERT INTO signer_repositories VALUES('registry.example/app',1);
CREATE TABLE signer_keys (
	id TEXT NOT NULL,
	gun TEXT NOT NULL,
	incarnation BIGINT NOT NULL,
	role TEXT NOT NULL,
	key_type TEXT NOT NULL,
	public_key BLOB NOT NULL,
	wrapped BLOB,
	kek TEXT,
	state TEXT NOT NULL,
	slot TEXT,
	created_at BIGINT NOT NULL,
	first_used_at BIGINT,
	forgotten_at BIGINT,
	PRIMARY KEY (id),
	CONSTRAINT signer_keys_slot UNIQUE (slot),
	CONSTRAINT signer_keys_role CHECK (role IN ('snapshot', 'timestamp')),
	CONSTRAINT signer_keys_state CHECK (state IN ('pending', 'active', 'retired', 'dropped')),
	CONSTRAINT signer_keys_pending CHECK ((state = 'pending') = (slot IS NOT NULL)),
	CONSTRAINT signer_keys_wrapped CHECK ((state = 'dropped') = (wrapped IS NULL))
);
INSERT INTO signer_keys VALUES('76405ddcdf5c39c928755217ff36e5e5510794059acc2f6dc94f9d87f23e5676','registry.example/app',1,'timestamp','ecdsa',X'3059301306072a8648ce3d020106082a8648ce3d03010703420004661cd4956b11c69270f6e780c1b381a3186cde676ce07c083391fc4ac0085f2cf22d9cc3dc22467cf5d255992de580d8073abaa7565c6d7a50c9b3f36c58fc67',X'22efc7057ccddee94577d055805c61b49cc0935b6ec915264bc31f4afa3f64598042642cc0fcd7fb94020bed080580f5aac1a613008a0c475401669b10cb49cd2e9c0c7ebe8c0f2d18b1bcd239f7a58842f5de26cce93fb01dd124c2dafbceecca6928f1bf3c1ab38a26a495258017feea50449372ff9174b077a311de58e701887768a2a55e93baf4460e38380fd054d767c6268ea53e43c29539b45d296ec9ac44c85092c7','9ae7884e2bc5287b','active',NULL,1795348800,1795348800,NULL);
INSERT INTO signer_keys VALUES('71d4a6db66278f687503ac25353d116e83d2fc37dfb48759a59930f1bc9220a1','registry.example/app',1,'snapshot','ecdsa',X'3059301306072a8648ce3d020106082a8648ce3d030107034200041a34a29d94ac1d6a80c2120e4b68a65387c2adee3d7b549936ef0206275b405e351660ed9ae28479c86ff3f48d158aa1d0497c50c80556a1367b60a1c2101c1d',X'89c894d9e8b0415116e690ffbc96c61f1ad884bfde8033097d15de02cd25e82391c40613d9bd6dd2a3f322f325419d88309c3dc114572ad189892638882f9abdab84ff47c3ff02643bb26ad2fa3283e306e49c70dbd8a19413ce8e0f70a75cbf96721397431b671706c0bfacacc7ece9e7a76c18a354edcdf12a49094dbb73baf65c6e0000f110f1c600b00c804601dfa432c5232fa534c463eee9f495871990567fa3821ef0','9ae7884e2bc5287b','active',NULL,1795348800,1795348800,NULL);
CREATE TABLE signer_ledger (
	gun TEXT NOT NULL,
	incarnation BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	timestamp_signed BIGINT NOT NULL,
	timestamp_confirmed BIGINT NOT NULL,
	snapshot_signed BIGINT NOT NULL,
	snapshot_confirmed BIGINT NOT NULL,
	snapshot_named BIGINT NOT NULL,
	PRIMARY KEY (gun, incarnation)
);
INSERT INTO signer_ledger VALUES('registry.example/app',1,4,2,1,2,1,2);
CREATE TABLE signer_statements (
	gun TEXT NOT NULL,
	incarnation BIGINT NOT NULL,
	role TEXT NOT NULL,
	version BIGINT NOT NULL,
	key_id TEXT NOT NULL,
	payload BLOB NOT NULL,
	method TEXT NOT NULL,
	signature BLOB NOT NULL,
	expires_at BIGINT NOT NULL,
	signed_at BIGINT NOT NULL,
	PRIMARY KEY (gun, incarnation, role, version)
);
INSERT INTO signer_statements VALUES('registry.example/app',1,'snapshot',1,'71d4a6db66278f687503ac25353d116e83d2fc37dfb48759a59930f1bc9220a1',X'15edddb055894a39da887653c31edb8d5b92de764a501105fa76ded83fd855bc','ecdsa',X'39e52a77b2079a45f46e418976e2298826c7d565bfc6e0e236cb1a3df3f3cd7a04a0939b121718a547358cd864a05ae5a0fb502a86ce2276756e61079342c4a6',1796558400,1795348800);
INSERT INTO signer_statements VALUES('registry.example/app',1,'timestamp',1,'76405ddcdf5c39c928755217ff36e5e5510794059acc2f6dc94f9d87f23e5676',X'4594ba78e6d58efef4df5dd0297cd22d75790906347d82a7109d48bcfbe108b9','ecdsa',X'b52f8e412aebf94992bb2c8e8216c0c8a144437fb62da0fbd8667f2cf383ea9cc85dd006f75b7ca1cc889bfcbe874ad11a239c9517924a2a9f8901e40e67a49c',1795608000,1795348800);
INSERT INTO signer_statements VALUES('registry.example/app',1,'snapshot',2,'71d4a6db66278f687503ac25353d116e83d2fc37dfb48759a59930f1bc9220a1',X'cf50f2d3f0e02c5ca37dd9c1d4dccc35acf6032c2afe147be82e4720d50c6f0f','ecdsa',X'e47097dbc851d9efa7b84bfbdd007b0a88fd7384db86269acfe731fad2272c38585ba441422ce008d1fae78e303bf1c22f0988157aa836edeed084ec9ce6ab34',1796558400,1795348800);
INSERT INTO signer_statements VALUES('registry.example/app',1,'timestamp',2,'76405ddcdf5c39c928755217ff36e5e5510794059acc2f6dc94f9d87f23e5676',X'2cc52b132cb490089a99f242b6dfe372925b81cea4d3d0c930c2c8a6adfe3bde','ecdsa',X'edf30ad7fed7e47fff31da516e40cbbda9e3fb0e7c07c4ad8527c1aeab678548581e1225a4fad067a24e406fb774330c6f923dfb073061dd1260f842bde94572',1795608000,1795348800);
CREATE INDEX signer_keys_gun ON signer_keys (gun, role);
CREATE INDEX signer_keys_kek ON signer_keys (kek);
CREATE INDEX signer_statements_expiry ON signer_statements (expires_at);
COMMIT;
