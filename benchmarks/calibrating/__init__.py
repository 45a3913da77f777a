"""Simulated audits with a known answer; ``calibration.py`` runs them and makes the tables of docs/statistics.md."""
