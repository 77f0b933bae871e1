"""The public data sets of the studies: location, licence and size.

Only facts stated by the publishers, or by files that quote them, are recorded here. Unknown values
are None, and `training.fetch` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field


class PublicFile(BaseModel):
    """One file of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    path: str
    """Path of the file below the folder of the data set. A zip file is unpacked next to itself."""
    stated_size: str | None = None
    """Size as the publisher states it, rounded."""
    size: int | None = Field(default=None, ge=0)
    """Size in bytes; None if it is not known exactly."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Checksum as the publisher states it. If None, it is recorded at the first download."""


class PublicDataset(BaseModel):
    """One data set. All its files are needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    page: str
    """Web page on which the publisher describes the data set."""
    citation: str
    licence: str
    files: tuple[PublicFile, ...]
    read_with: str
    """Command that reads the data set; ``OUT`` stands for the folder that it was fetched to."""


_LIVECELL = "http://livecell-dataset.s3.eu-central-1.amazonaws.com/LIVECell_dataset_2021"

PUBLIC_DATASETS: Mapping[str, PublicDataset] = MappingProxyType(
    {
        "livecell": PublicDataset(
            title="LIVECell: 1.6 million cells in over 5,000 phase-contrast images",
            page="https://github.com/sartorius-research/LIVECell",
            citation="Edlund et al. 2021, https://doi.org/10.1038/s41592-021-01249-6",
            licence="CC BY-NC 4.0: not for commercial use",
            files=(
                PublicFile(
                    url=f"{_LIVECELL}/images.zip", path="images.zip", stated_size="about 1.3 GB"
                ),
                *(
                    PublicFile(
                        url=f"{_LIVECELL}/annotations/LIVECell/livecell_coco_{split}.json",
                        path=f"annotations/LIVECell/livecell_coco_{split}.json",
                    )
                    for split in ("train", "val", "test")
                ),
            ),
            read_with=(
                "python -m training.unet glioma "
                "--data OUT/annotations/LIVECell/livecell_coco_train.json "
                "--validation OUT/annotations/LIVECell/livecell_coco_val.json"
            ),
        ),
        "glioma-c6": PublicDataset(
            title="Glioma C6: cells and somata in phase-contrast images",
            page="https://zenodo.org/records/17352019",
            citation="Malashin et al. 2025, https://doi.org/10.48550/arXiv.2511.07286",
            licence="CC BY-NC 4.0 by its record: not for commercial use (the paper: CC BY-NC-ND)",
            files=(
                PublicFile(
                    url="https://zenodo.org/records/17352019/files/dataset.zip?download=1",
                    path="dataset.zip",
                    stated_size="947.0 MB",
                ),
            ),
            read_with=(
                "python -m training.unet glioma "
                "--data OUT/dataset/spec/train --validation OUT/dataset/spec/valid"
            ),
        ),
        "brecahad": PublicDataset(
            title="BreCaHAD: centres of nuclei in 162 breast cancer images",
            page="https://doi.org/10.6084/m9.figshare.7379186.v3",
            citation="Aksac et al. 2019, https://doi.org/10.1186/s13104-019-4121-7",
            licence="CC BY 4.0",
            files=(
                PublicFile(
                    url="https://ndownloader.figshare.com/files/14062469", path="BreCaHAD.zip"
                ),
            ),
            read_with="python -m training.nuclei_tiles --data OUT/BreCaHAD",
        ),
    }
)
"""Data sets by the names that `training.fetch` accepts."""
