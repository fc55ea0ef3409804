"""Access to SQLite and PostgreSQL: engines, transactions, bulk reads and writes, migrations."""
