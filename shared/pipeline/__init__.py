"""Pipelines as people write them: source, frames, decisions, sinks. For both sides."""
