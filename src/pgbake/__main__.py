"""Entry point: ``pgbake`` and ``python -m pgbake``."""

from pgbake.cli.main import main

if __name__ == "__main__":
    main()
