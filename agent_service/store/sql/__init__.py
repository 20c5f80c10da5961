"""The database: tables, migrations, engines, transactions."""
