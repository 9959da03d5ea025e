"""What an output folder holds: rows, reports, records; reading, checking and compacting it."""
