"""One job at a time on an output: leases, stopping, progress, and what earlier runs left."""
