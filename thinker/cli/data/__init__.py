"""Subcommands that make data sets."""
