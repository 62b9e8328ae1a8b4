"""The data sets of the benchmark by the names they have on the command line."""

from data.boneage import BoneAge
from data.dataset import RadiographDataset
from data.kneeoa import KneeOA
from data.mura import MURA
from data.pesplanus import PesPlanus

BENCHMARK: dict[str, type[RadiographDataset]] = {
    "pesplanus": PesPlanus,
    "boneage": BoneAge,
    "mura": MURA,
    "kneeoa": KneeOA,
}
