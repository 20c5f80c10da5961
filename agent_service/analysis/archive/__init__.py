"""Old runs in Parquet files: how they get there, and how they are read again."""
