"""Whether a machine and a share can do the river's work: what `hakuriver doctor` finds, and what daemons refuse."""
