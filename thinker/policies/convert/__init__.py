"""Checkpoints in layouts that others released → policies; one file a layout."""
