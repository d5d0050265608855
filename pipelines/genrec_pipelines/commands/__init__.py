"""The subcommands of `genrec`, one a file."""
