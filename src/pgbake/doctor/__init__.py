"""`pgbake doctor`: what of this machine stands in pgbake's way, found by trying it, and what to type."""
