"""Sources of items: one file per layout, all of them read as streams of RawItem and Broken."""
