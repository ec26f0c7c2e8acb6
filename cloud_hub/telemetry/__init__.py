"""What devices tell, stored exactly once."""
