"""The river on shared filesystems: see `river` for how, `lab` for the filesystems."""
