"""What the device tells: windows of numbers, the durable outbox, the publisher."""
