"""The data sets of the benchmark by the names they have on the command line."""

from data.boneage import BoneAge
from data.btxrd import Btxrd, BtxrdMalignancy, BtxrdSubtype
from data.csv_table import CsvTable
from data.dataset import RadiographDataset
from data.fracatlas import FracAtlas, FracAtlasImplant
from data.grazpedwri import PediatricAO, PediatricFracture, PediatricImplant
from data.kneeoa import KneeOA
from data.mura import MURA
from data.pesplanus import PesPlanus

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
