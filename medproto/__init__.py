"""Interpretable classification of radiology images with prototypes.

Tensors and images in, tensors and evidence out. No database, no web, no command line; importing
the package itself loads neither torch nor MONAI.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("medproto")
