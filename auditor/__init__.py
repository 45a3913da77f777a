"""auditor: which checkpoint of a diffusion training on private images is safe to release."""

__version__ = "0.1.0"
