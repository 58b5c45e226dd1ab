"""What runs inside a check's sandbox: modules that import each other and nothing else of pgbake's.

A check's derivation carries the text of `main`, `report`, `server` and of the module of its kind, by the names that
they have here, with nothing but Python's standard library around them; see `pgbake.checks.check`.
"""
