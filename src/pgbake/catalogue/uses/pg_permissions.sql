CREATE ROLE use_permissions;
CREATE TABLE public.t (id int);
SELECT bool_and(NOT granted) FROM all_permissions WHERE object_type = 'TABLE' AND object_name = 't' AND role_name = 'use_permissions';
INSERT INTO permission_target (role_name, permissions, object_type, schema_name, object_name) VALUES ('use_permissions', '{SELECT}', 'TABLE', 'public', 't');
SELECT count(*) = 1 FROM permission_diffs() WHERE missing AND object_name = 't' AND role_name = 'use_permissions';
