SELECT 'forty-two'::numeral + 'one'::numeral = 'forty-three'::numeral;
SELECT 'zwei'::zahl + 'drei'::zahl = 'fünf'::zahl AND 'MMXXVI'::roman - 'MM'::roman = 'XXVI'::roman;
