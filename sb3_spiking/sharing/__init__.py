"""Agents as files: read without running anything that is in them, written so that others can do the same."""
