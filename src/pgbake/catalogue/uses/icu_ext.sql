SELECT icu_transform('Ελλάς', 'Any-Latin; Latin-ASCII') = 'Ellas';
SELECT icu_number_spellout(42, 'en') = 'forty-two';
SELECT count(*) > 100 FROM icu_locales_list();
SELECT icu_compare('e', 'é', 'en-u-ks-level1') = 0;
