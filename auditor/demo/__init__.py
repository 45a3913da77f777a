"""The demo: real digits, twin trainings on two halves of them, and a very small CLIP.

``load`` and ``write`` give the images, ``shipped`` the trained files, ``retrain`` makes
those again, ``demo_config`` is the audit of them. Everything is laid out as a user's own
files would be, so that ``audit demo`` runs the same code as ``audit run``.
"""

from auditor.demo.digits import load, write
from auditor.demo.recipe import demo_config, retrain, shipped

__all__ = ["demo_config", "load", "retrain", "shipped", "write"]
