-- create: pglogical, pgl_ddl_deploy
SELECT pglogical.create_node('use_ddl', 'dbname=' || current_database()) > 0;
INSERT INTO pgl_ddl_deploy.set_configs (set_name, include_schema_regex, driver) VALUES ('default', '^app$', 'pglogical');
SELECT pgl_ddl_deploy.deploy('default');
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY);
SELECT count(*) >= 1 FROM pgl_ddl_deploy.events WHERE ddl_sql_sent LIKE 'CREATE TABLE app.t%';
