"""The device's identity, how it joins a hub, and what comes down from it."""
