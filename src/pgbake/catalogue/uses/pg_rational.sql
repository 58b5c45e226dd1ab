SELECT '1/3'::rational + '1/6'::rational = '1/2'::rational;
SELECT sum(r) = '11/6'::rational FROM unnest('{1,1/2,1/3}'::rational[]) r;
SELECT rational_intermediate('1/3', '1/2') = '2/5'::rational;
