"""The data sets of the benchmark by the names they have on the command line."""

from data.datasets.csv_table import CsvTable
from data.datasets.dataset import RadiographDataset
from data.releases.btxrd import Btxrd, BtxrdMalignancy, BtxrdSubtype
from data.releases.fracatlas import FracAtlas, FracAtlasImplant
from data.releases.grazpedwri import PediatricAO, PediatricFracture, PediatricImplant
from data.releases.knee_oa import KneeOA
from data.releases.mura import MURA
from data.releases.pes_planus import PesPlanus
from data.releases.rsna_bone_age import BoneAge

BENCHMARK: dict[str, type[RadiographDataset]] = {
    "pesplanus": PesPlanus,
    "boneage": BoneAge,
    "mura": MURA,
    "fracatlas": FracAtlas,
    "fracatlas_implant": FracAtlasImplant,
    "kneeoa": KneeOA,
    "pediatricfx": PediatricFracture,
    "pediatricfx_implant": PediatricImplant,
    "pediatricfx_ao": PediatricAO,
    "btxrd": Btxrd,
    "btxrd_mb": BtxrdMalignancy,
    "btxrd_subtype": BtxrdSubtype,
    "csv": CsvTable,
}
