CREATE FUNCTION join_all(a text[]) RETURNS text LANGUAGE pllua AS $$ local r = "" for i = 1, #a do r = r .. a[i] end return r $$;
SELECT join_all('{he,ron}') = 'heron';
SELECT count(*) = 1 FROM pg_language WHERE lanname = 'plluau';
CREATE FUNCTION h(h hstore) RETURNS text LANGUAGE pllua TRANSFORM FOR TYPE hstore AS $$ return h.a $$;
SELECT h('a=>1') = '1';
