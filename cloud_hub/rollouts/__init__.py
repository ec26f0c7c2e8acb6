"""Moving devices to a release step by step, and back."""
