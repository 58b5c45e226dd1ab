-- With the rules for the USA.
SELECT (standardize_address('us_lex', 'us_gaz', 'us_rules', '1 Devonshire Place, Boston, MA 02109')).house_num = '1';
SELECT (parse_address('1 Devonshire Place, Boston, MA 02109')).zip = '02109';
