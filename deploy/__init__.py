"""What deploys Isthmus; no product code."""
