"""Images and cohorts: read radiographs, build, check and split a table of them.

No torch and no MONAI here: arrays, tables and `medproto.records` only. The synthetic cohort is in
`medproto.data.phantom`.
"""

from medproto.data.bids_builder import from_bids
from medproto.data.builders import BuiltCohort, from_folder
from medproto.data.channels import ImageChannels, ImageFrame, LoadedImage
from medproto.data.check import CohortReport, check_cohort
from medproto.data.cohort import Cohort
from medproto.data.dicom_builder import from_dicom
from medproto.data.files_read import FilesRead, read_files
from medproto.data.images import ImageSource, read_image, read_mask
from medproto.data.isolated import readers
from medproto.data.joining import join_cohorts
from medproto.data.nifti_builder import from_nifti
from medproto.data.npz_builder import from_npz
from medproto.data.problem import Problem
from medproto.data.splits import split_cohort, split_of_fold

__all__ = [
    "BuiltCohort",
    "Cohort",
    "CohortReport",
    "FilesRead",
    "ImageChannels",
    "ImageFrame",
    "ImageSource",
    "LoadedImage",
    "Problem",
    "check_cohort",
    "from_bids",
    "from_dicom",
    "from_folder",
    "from_nifti",
    "from_npz",
    "join_cohorts",
    "read_files",
    "read_image",
    "read_mask",
    "readers",
    "split_cohort",
    "split_of_fold",
]
