"""Samples that devices send by their owners' policy, until they are a version of a dataset."""
