"""The other side, for tests: peers, clocks, servers."""
