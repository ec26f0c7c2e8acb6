"""Aggregation: from checked updates of a Round to one update of the weights."""
