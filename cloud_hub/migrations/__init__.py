"""The schema of the hub's database, step by step; run by `Database.migrate`."""
