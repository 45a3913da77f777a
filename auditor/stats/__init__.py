"""Intervals, permutation tests, confidence sets of a minimum: arrays in, numbers with their uncertainty out.

Each file names the rule of docs/statistics.md that it implements. What is random is drawn from generators whose seeds
are given, never from a global state.
"""
