"""The data sets of the benchmark by the names they have on the command line."""

from data.btxrd import Btxrd, BtxrdMalignancy, BtxrdSubtype
from data.csv_table import CsvTable
from data.dataset import RadiographDataset
from data.fracatlas import FracAtlas, FracAtlasImplant
from data.grazpedwri import PediatricAO, PediatricFracture, PediatricImplant

BENCHMARK: dict[str, type[RadiographDataset]] = {
    "fracatlas": FracAtlas,
    "fracatlas_implant": FracAtlasImplant,
    "pediatricfx": PediatricFracture,
    "pediatricfx_implant": PediatricImplant,
    "pediatricfx_ao": PediatricAO,
    "btxrd": Btxrd,
    "btxrd_mb": BtxrdMalignancy,
    "btxrd_subtype": BtxrdSubtype,
    "csv": CsvTable,
}
