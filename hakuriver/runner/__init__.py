"""The runner: claims what the host sends to its node, has the keeper start it, carries outputs, reports.

Whatever it holds in memory can be rebuilt from the share and the keeper: it may die between any two
operations. It imports nothing of the host's; they share `spool` and `records` only.
"""
