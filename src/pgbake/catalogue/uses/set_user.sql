CREATE ROLE use_set_user;
SELECT set_user('use_set_user') = 'OK';
SELECT current_user = 'use_set_user';
SELECT reset_user() = 'OK';
SELECT current_user = 'postgres';
