"""The subcommands of `beamscribe`, a module each: it adds its options, and runs."""
