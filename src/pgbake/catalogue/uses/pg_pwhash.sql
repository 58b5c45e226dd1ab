SELECT pwhash_crypt('heron', salt) LIKE '$' || kind || '$%' AND pwhash_crypt('heron', pwhash_crypt('heron', salt)) = pwhash_crypt('heron', salt)
FROM (SELECT kind, pwhash_gen_salt(kind) AS salt FROM unnest('{argon2id,argon2d}'::text[]) kind) salts;
SELECT pwhash_yescrypt_crypt('heron', pwhash_gen_salt('yescrypt')) LIKE '$y$%';
SELECT pwhash_scrypt('heron', pwhash_gen_salt('scrypt')) LIKE '$scrypt$%';
