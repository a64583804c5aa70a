"""Recipes: public data sets in the layout in which they are published, to a cohort table.

None but MedMNIST's PneumoniaMNIST has been run on the real files yet.
"""

from medproto.data.recipes.brats import brats
from medproto.data.recipes.build import RECIPES, build_recipe
from medproto.data.recipes.cbis_ddsm import cbis_ddsm
from medproto.data.recipes.chestxray14 import chestxray14
from medproto.data.recipes.medmnist import medmnist
from medproto.data.recipes.rsna_pneumonia import rsna_pneumonia

__all__ = [
    "RECIPES",
    "brats",
    "build_recipe",
    "cbis_ddsm",
    "chestxray14",
    "medmnist",
    "rsna_pneumonia",
]
