"""The output folder: its layout, rows, plans and reports, and how it is read, checked and compacted."""
