"""make demo: the whole loop on one machine, on real digits and a physical bearing model."""
