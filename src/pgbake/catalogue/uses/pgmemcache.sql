-- There is no memcached here: its library answers that there is none.
SELECT memcache_server_add('127.0.0.1:1');
SELECT memcache_get('heron') IS NULL;
