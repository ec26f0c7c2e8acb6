"""MQTT in: one message to the one service that owns it; broker adapters."""
