"""What photos come from: folders, lists, archives and record files. A module a kind, each to list and to read it."""
