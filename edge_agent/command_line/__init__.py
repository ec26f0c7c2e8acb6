"""What `edge-agent` can do: commands by what they are for, and what they print."""
