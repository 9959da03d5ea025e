"""The sources of photos: folders, lists, archives and record files. One module per kind lists and reads it."""
