"""Subcommands that evaluate."""
