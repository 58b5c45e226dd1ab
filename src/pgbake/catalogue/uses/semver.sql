SELECT '1.2.0-rc.1'::semver < '1.2.0'::semver AND max(v) = '1.10.0' FROM unnest('{1.9.0,1.10.0,1.2.3}'::semver[]) v;
SELECT NOT is_semver('1.02.0') AND get_semver_minor('3.14.1') = 14;
