"""Controls the jobs on an output folder: the lease, stop requests, progress, and the history of earlier runs."""
