SELECT '1.0~rc1'::debversion < '1.0'::debversion;
SELECT max(v) = '2:1.0-1' FROM unnest('{1.10-1,1.9-2,2:1.0-1}'::debversion[]) v;
SELECT array_agg(v ORDER BY v)::text = '{1.9-2,1.10-1,2:1.0-1}' FROM unnest('{1.10-1,2:1.0-1,1.9-2}'::debversion[]) v;
