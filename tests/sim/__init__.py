"""A whole river in one process: a share in memory that crashes and lies, keepers without processes, virtual time."""
