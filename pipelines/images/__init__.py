"""Image files: telling their formats, converting them to pixels, and the pool of processes that does so."""
