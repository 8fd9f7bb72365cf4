"""Synthetic CT centers for the demo, the tests and the generalisation benchmark.

`anatomy` (which organs, where), `lesion` (what grows in the pancreas) and `appearance` (what a
scanner and a contrast phase make of it) are independent; `centers` chooses among them, `make`
writes the result as real data sets lie on a disk. Nothing here was made from a patient's image.
"""
