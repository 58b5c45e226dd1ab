SELECT 'forty-two'::numeral + 'one'::numeral = 'forty-three'::numeral;
SELECT (42::zahl)::text = 'zweiundvierzig' AND ('MMXXVI'::roman)::int = 2026;
