-- Its data is the census bureau's and not here: addresses are taken to parts, and what is to load the data is written.
SELECT (normalize_address('1 Devonshire Place, Boston, MA 02109')).zip = '02109';
SELECT pprint_addy(normalize_address('28 Capen Street, Medford, MA')) LIKE '28 Capen St%Medford%MA%';
SELECT count(*) = 1 AND bool_and(script LIKE '%shp2pgsql%') FROM loader_generate_nation_script('sh') script;
