"""Item to raw outputs to Decision: the hot path."""
