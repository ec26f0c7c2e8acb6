"""Pure: model outputs to Decisions."""
