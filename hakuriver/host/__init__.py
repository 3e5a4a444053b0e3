"""The host: takes requests, hears the nodes, plans, commits to the journal, sends, tells."""
