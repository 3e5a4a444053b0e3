"""The only code that touches the share: paths, files, locks, watching."""
