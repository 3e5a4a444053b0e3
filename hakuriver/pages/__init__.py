"""The status pages: static HTML that the host writes into www/, to be opened from the share or any web server."""
