-- Object identifiers are ordered by their numbers, not as text.
SELECT array_agg(oid ORDER BY oid)::text = '{1.3.6.1.2,1.3.6.1.4.1,1.3.6.1.10}' FROM unnest('{1.3.6.1.10,1.3.6.1.2,1.3.6.1.4.1}'::asn1oid[]) oid;
CREATE TABLE mib (oid asn1oid PRIMARY KEY);
INSERT INTO mib SELECT ('1.3.6.1.' || i)::asn1oid FROM generate_series(1, 100) i;
SELECT count(*) = 9 FROM mib WHERE oid < '1.3.6.1.10';
