"""What Flink needs to run the captioning job: a cluster on this machine, and the files for real ones."""
