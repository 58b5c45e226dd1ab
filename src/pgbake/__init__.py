"""pgbake: unmodified PostgreSQL plus extensions as one reproducible bundle, built from source."""

__version__ = "0.1.0"
