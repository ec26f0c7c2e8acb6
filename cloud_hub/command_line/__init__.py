"""The command line over the admin API: what an operator types."""
