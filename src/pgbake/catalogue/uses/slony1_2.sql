-- create:
-- The functions that Slony's own program installs from the library.
CREATE SCHEMA _use;
SELECT regexp_replace(f, '\.so$', '') AS library FROM pg_ls_dir((SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR')) f WHERE f LIKE 'slony1_funcs%.so'
\gset
CREATE FUNCTION _use.getmoduleversion() RETURNS text LANGUAGE C AS :'library', '_Slony_I_2_2_11__getModuleVersion';
SELECT _use.getmoduleversion() LIKE '2.%';
