"""``medproto cohort from-…`` and ``recipe``: build cohort tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medproto.data import Cohort

__all__ = [
    "Group",
    "LabelColumns",
    "Out",
    "from_bids",
    "from_dicom",
    "from_folder",
    "from_nifti",
    "from_npz",
    "names_of",
    "recipe",
    "write_cohort",
]

Out = Annotated[Path, typer.Option("--out", help="Table to write, .csv or .parquet.")]
Group = Annotated[
    str | None,
    typer.Option("--group", help="Column that keeps images of a patient together."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="CSV with the columns image and label (or image and --label-columns)."
    ),
]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        "--label-columns",
        help="Columns of findings that may occur together, with commas between: 1 present, "
        "0 absent, -1 or empty uncertain. In place of the column label.",
    ),
]
CopyAsPseudonyms = Annotated[
    bool,
    typer.Option(
        "--copy-as-pseudonyms", help="Copy the files beside the table under pseudonymous names."
    ),
]


def from_dicom(
    source: Annotated[
        Path, typer.Argument(help="Folder that is searched for DICOM files, or a DICOMDIR.")
    ],
    out: Out,
    labels: Labels = None,
    copy_as_pseudonyms: CopyAsPseudonyms = False,
    label_columns: LabelColumns = None,
    series: Annotated[
        bool,
        typer.Option("--series", help="A row for each series, a volume, instead of each file."),
    ] = False,
) -> None:
    """Build a table from DICOM files; patients and studies become pseudonyms.

    Pseudonyms are keyed: set MEDPROTO_PSEUDONYM_KEY to link them across builds. A series must have
    a folder for itself, or be given one by --copy-as-pseudonyms.

    Example: medproto cohort from-dicom export/ --labels labels.csv --out cohort.csv

    Example: medproto cohort from-dicom export/ --series --copy-as-pseudonyms --out volumes.csv
    """
    from medproto.data import from_dicom as build

    cohort, notes = build(
        source,
        labels=labels,
        copy_to=_copies(out) if copy_as_pseudonyms else None,
        label_columns=names_of(label_columns),
        series=series,
    )
    write_cohort(cohort, out, notes)


def from_folder(
    source: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Out,
    labels: Labels = None,
    group: Group = None,
    label_columns: LabelColumns = None,
) -> None:
    """Build a table from PNG or JPEG files: a sub-folder for each class, or a labels table.

    Example: medproto cohort from-folder images/ --labels labels.csv --group case --out cohort.csv
    """
    from medproto.data import from_folder as build

    cohort, notes = build(source, labels=labels, group=group, label_columns=names_of(label_columns))
    write_cohort(cohort, out, notes)


def from_nifti(
    source: Annotated[Path, typer.Argument(help="Folder that is searched for NIfTI files.")],
    out: Out,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="CSV with image or subject, and label (or --label-columns); perhaps mask, "
            "patient_id, session.",
        ),
    ] = None,
    copy_as_pseudonyms: CopyAsPseudonyms = False,
    label_columns: LabelColumns = None,
) -> None:
    """Build a table from NIfTI volumes and a table of labels; patients become pseudonyms.

    Labels are joined by the column image (path from SOURCE) or subject (its top folder). Without
    a column patient_id or subject, the top folder of a path is the patient.

    Example: medproto cohort from-nifti volumes/ --labels labels.csv --out cohort.csv
    """
    from medproto.data import from_nifti as build

    cohort, notes = build(
        source,
        labels=labels,
        copy_to=_copies(out) if copy_as_pseudonyms else None,
        label_columns=names_of(label_columns),
    )
    write_cohort(cohort, out, notes)


def from_bids(
    source: Annotated[Path, typer.Argument(help="Folder of a BIDS data set.")],
    out: Out,
    suffix: Annotated[str, typer.Option(help="Which images: the suffix of their names.")] = "T1w",
    label: Annotated[
        str | None,
        typer.Option(
            help="Column of participants.tsv with the label; else label, diagnosis or group."
        ),
    ] = None,
    copy_as_pseudonyms: CopyAsPseudonyms = False,
    label_columns: LabelColumns = None,
) -> None:
    """Build a table from a BIDS data set; participants and sessions become pseudonyms.

    Example: medproto cohort from-bids ds000001/ --suffix T1w --label group --out cohort.csv
    """
    from medproto.data import from_bids as build

    if label is not None and label_columns is not None:
        raise typer.BadParameter("give --label or --label-columns, not both.")
    cohort, notes = build(
        source,
        suffix=suffix,
        label=label,
        label_columns=names_of(label_columns),
        copy_to=_copies(out) if copy_as_pseudonyms else None,
    )
    write_cohort(cohort, out, notes)


def from_npz(
    source: Annotated[Path, typer.Argument(help="MedMNIST file, .npz.")],
    out: Out,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes 0, 1, ..., with commas between.")
    ] = None,
) -> None:
    """Build a table from a MedMNIST file; its images are written beside the table as PNG.

    Example: medproto cohort from-npz pneumoniamnist_28.npz --classes normal,pneumonia --out p.csv
    """
    from medproto.data import from_npz as build

    names = None if classes is None else tuple(classes.split(","))
    cohort, notes = build(source, _copies(out), classes=names)
    write_cohort(cohort, out, notes)


def recipe(
    name: Annotated[
        str,
        typer.Argument(help="brats, cbis-ddsm, chestxray14, medmnist or rsna-pneumonia."),
    ],
    source: Annotated[Path, typer.Argument(help="Folder of the data set as it is published.")],
    out: Out,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="Of brats: CSV with subject and label, or with BraTS21ID and MGMT_value.",
        ),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Of brats: t1, t1ce, t2 or flair (default).")
    ] = None,
) -> None:
    """Build a table from a public data set in its published layout.

    The recipes follow the published descriptions and, but for PneumoniaMNIST, are not yet run on
    the real files: compare the counts. What each takes and what its labels mean: docs/cohorts.md.

    Example: medproto cohort recipe chestxray14 ChestXray-NIHCC/ --out chestxray14.csv
    """
    from medproto.data.recipes import build_recipe
    from medproto.errors import CohortError

    try:
        cohort, notes = build_recipe(
            name, source, images_to=_copies(out), labels=labels, sequence=sequence
        )
    except CohortError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    write_cohort(cohort, out, notes)


def _copies(out: Path) -> Path:
    """Return the folder of images that are written beside a table."""
    return out.parent / f"{out.stem}_images"


def names_of(text: str | None) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def write_cohort(cohort: Cohort, out: Path, notes: tuple[str, ...] | list[str]) -> None:
    """Save a table, and print the notes of its builder and the number of its rows on stderr."""
    out.parent.mkdir(parents=True, exist_ok=True)
    cohort.save(out)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"wrote {len(cohort.table)} rows to {out}", err=True)
