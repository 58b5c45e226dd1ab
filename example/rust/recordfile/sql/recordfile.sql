-- The test writes its own files, into the server's data directory.
SELECT current_setting('data_directory') AS directory \gset
CREATE EXTENSION recordfile;
CREATE SERVER files FOREIGN DATA WRAPPER recordfile OPTIONS (directory :'directory');
SET datestyle = 'ISO';
SET timezone = 'UTC';

-- CSV, with a header
\set file :directory '/people.csv'
COPY (SELECT unnest(ARRAY[
  'id,name,born,height,score,active,seen,note',
  '1,Ada,1815-12-10,1.65,12345678901234567890.5,yes,2024-02-29 12:00:00+02,"{""a"": [1, 2]}"',
  '2,"Grace, Hopper",1906-12-09,,-0.25,no,,',
  '3,Kurt,1906-04-28,1.7e0,NaN,t,2024-03-01T00:00:00Z,[]'])) TO :'file';
CREATE FOREIGN TABLE people (
  note jsonb, seen timestamptz, active boolean, score numeric, height real, born date, name text, id bigint
) SERVER files OPTIONS (path 'people.csv');
SELECT id, name, born, height, score, active, seen, note FROM people ORDER BY id;
SELECT count(*), sum(score) FILTER (WHERE score <> 'NaN') FROM people WHERE active;

-- a scan that starts again
SELECT a.name, b.name FROM people a, people b WHERE a.born > b.born ORDER BY 1, 2;
SELECT n, (SELECT name FROM people WHERE id = n) FROM generate_series(1, 4) n;

-- only the columns that a query needs are decoded
ALTER FOREIGN TABLE people ALTER name TYPE integer;
SELECT id, height FROM people WHERE id = 2;
SELECT name FROM people;

-- other separators, no header, another NULL
\set file :directory '/plain.txt'
COPY (SELECT unnest(ARRAY['1;2;2024-05-01 10:00', '-;32767;-', '3;-1;infinity'])) TO :'file';
CREATE FOREIGN TABLE plain (a integer, b smallint, c timestamp)
  SERVER files OPTIONS (path 'plain.txt', format 'csv', delimiter ';', header 'false', "null" '-');
SELECT * FROM plain;

-- JSON lines
\set file :directory '/events.jsonl'
COPY (SELECT unnest(ARRAY[
  '{"at": "2024-01-01T00:00:00Z", "kind": "login", "size": 1.10, "tags": ["a", "b"], "exact": 123456789012345678901234567890}',
  '', '{"kind": {"nested": true}, "size": null, "tags": "text"}'])) TO :'file';
CREATE FOREIGN TABLE events (kind text, at timestamptz, size double precision, exact numeric, tags json)
  SERVER files OPTIONS (path 'events.jsonl');
SELECT * FROM events;
SELECT tags -> 0 AS first FROM events WHERE kind = 'login';

-- what is wrong in a file is told with its place
\set file :directory '/broken.csv'
COPY (SELECT unnest(ARRAY['id,name', '1,one', 'two,2', '3,three,3'])) TO :'file';
CREATE FOREIGN TABLE broken (id integer, name text) SERVER files OPTIONS (path 'broken.csv');
SELECT * FROM broken;
SELECT name FROM broken;
ALTER FOREIGN TABLE broken ADD born date;
SELECT born FROM broken;
\set file :directory '/broken.jsonl'
COPY (SELECT unnest(ARRAY['{"id": 1}', '[2]', '{"id": }'])) TO :'file';
CREATE FOREIGN TABLE broken_json (id integer) SERVER files OPTIONS (path 'broken.jsonl');
SELECT * FROM broken_json;

-- and so is what is wrong in a table
CREATE FOREIGN TABLE absent (id integer) SERVER files OPTIONS (path 'absent.csv');
SELECT * FROM absent;
CREATE FOREIGN TABLE types (id varchar(3)) SERVER files OPTIONS (path 'people.csv');
SELECT * FROM types;
CREATE FOREIGN TABLE refused (id integer) SERVER files;
CREATE FOREIGN TABLE refused (id integer) SERVER files OPTIONS (path 'x', colour 'red');
CREATE FOREIGN TABLE refused (id integer) SERVER files OPTIONS (path 'x', format 'xml');
CREATE FOREIGN TABLE refused (id integer) SERVER files OPTIONS (path 'x', delimiter '||');
CREATE FOREIGN TABLE refused (id integer) SERVER files OPTIONS (path 'x.jsonl', header 'true');
ALTER SERVER files OPTIONS (SET directory 'here');
INSERT INTO people (id) VALUES (1);
DELETE FROM people;

-- who may not read the server's files may not name one
CREATE ROLE recordfile_guest;
GRANT USAGE ON FOREIGN SERVER files TO recordfile_guest;
GRANT CREATE ON SCHEMA public TO recordfile_guest;
SET ROLE recordfile_guest;
CREATE FOREIGN TABLE guests (id integer) SERVER files OPTIONS (path 'people.csv');
RESET ROLE;
DROP OWNED BY recordfile_guest;
DROP ROLE recordfile_guest;
DROP EXTENSION recordfile CASCADE;
