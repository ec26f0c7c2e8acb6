"""Samples that leave the device, by its owner's own policy and by nobody else's."""
