"""Subcommands that look at files alone, without a policy."""
