"""Synthetic CT centers for the demo, the tests and the generalisation benchmark."""
