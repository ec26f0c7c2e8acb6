"""What crosses the network: one table of topics, one codec, one module per message."""
