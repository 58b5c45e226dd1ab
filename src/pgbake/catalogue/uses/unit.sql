SELECT '1 km'::unit + '500 m'::unit = '1500 m'::unit;
SELECT '36 km/hour'::unit = '10 m/s'::unit AND sum(u) = '3 kg'::unit FROM unnest('{1 kg,2 kg}'::unit[]) u;
SELECT '1 furlong'::unit @ 'm' = '201.168 m';
