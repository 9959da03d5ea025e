"""What a job needs on each of Beam's runners, and the user need not say."""
