"""The service that materializes runs into DuckDB and exposes them as SQL and gauges."""
