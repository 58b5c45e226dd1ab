SELECT 'c1ccccc1O'::mol @> 'c1ccccc1'::mol AND NOT 'CCO'::mol @> 'c1ccccc1'::mol;
SELECT abs(mol_amw('CCO'::mol) - 46.07) < 0.01;
SELECT tanimoto_sml(morganbv_fp('CCO'::mol), morganbv_fp('CCO'::mol)) = 1;
