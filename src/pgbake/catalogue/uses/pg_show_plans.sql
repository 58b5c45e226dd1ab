SELECT count(*) >= 1 FROM pg_show_plans WHERE plan LIKE '%pg_show_plans%';
