"""Bone age of children's hands from radiograph and sex, with an interval, a map of what spoke for it, and doubts.

    python scripts/predict_bone_age.py image_list.txt M 512 checkpoints/best_model.pth
    python scripts/predict_bone_age.py --images hands/ more.csv --sex F --model_path checkpoints/model --tta

The first form is BoneXage's: a text file with one path a line, one sex for all, the side of the input in pixels (the
checkpoint's, if left out) and the network; it prints `path: 10 years 6 months (126.5 months)`, years and months being
the completed ones of the months shown. A bone age that is outside the range of the training data, or of a radiograph
unlike those of the training, says so and "do not use" wherever it is shown. The second form takes radiographs (also
DICOM), folders, .txt lists and tables (.csv, .xlsx: columns image, sex or male, and if known age_months or age_years,
bone_age_months, patient; also RSNA's own) and writes OUTPUT_DIR/
  predictions.csv   path, sex, bone_age_months, bone_age, do_not_use, low_months, high_months, level, sd_months,
                    male_months, female_months, like_training (yes, no, unknown), likeness, warnings,
                    chronological_age_months, deviation_months, deviation_sd, true_bone_age_months, network
  index.html        all of it with the radiographs and Grad-CAM maps; open it in a browser
  failed.csv        what could not be read, and why
  report.html, scores.csv, subgroups.csv, comparisons.csv   where true bone ages are known

Sex: M, male, true or F, female, false, in any case; 1 (male) and 0 on the command line and in a column called male
alone, since elsewhere 1 may be a girl; none, unknown or u is unknown, and gives the mean of both answers with an
interval that covers both. It is never guessed. Research use only. Exit status:
0 all radiographs were read, 3 some were not, 2 a wrong flag or file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import dataclasses
from pathlib import Path
from core.flags import flag, run, weights_flag

MODEL = Path("checkpoints/best_model.pth")  # where BoneXage has it


@dataclasses.dataclass
class Config:
    """Bone age of children's hands from radiograph and sex. Research use only."""

    line: list[str] = flag([], "BoneXage's form: IMAGE_LIST SEX [SIZE [MODEL]]", positional=True)
    images: list[Path] = flag(
        [], "radiographs, folders, .txt lists, tables (.csv, .xlsx) with a sex for each"
    )
    model_path: Path = flag(
        MODEL,
        "model folder of train_bone_age.py, the folder of a training with --k_folds (the mean of its networks), or "
        "BoneXage's best_model.pth",
    )
    output_dir: Path | None = flag(
        None, "folder of the results [outputs/bone_age; none for BoneXage's form]"
    )
    sex: str = flag("", "of radiographs for which nothing else says it")
    sex_from_dicom: bool = flag(False, "PatientSex of DICOM files, where no table says it")
    age_from_dicom: bool = flag(
        False, "chronological age in months from DICOM files, where no table says it"
    )
    recursive: bool = flag(True, "also radiographs in subfolders")
    image_size: int | None = flag(None, "side of the input, pixels; default the checkpoint's")
    tta: bool = flag(False, "mean with the flipped radiograph")
    level: float = flag(0.9, "chance with which an interval holds the true bone age")
    age_sd: Path | None = flag(
        None, "table sex,age_months,sd_months: one SD of the deviation, by sex and age"
    )
    saliency: bool = flag(True, "Grad-CAM maps on the page")
    most_shown: int = flag(200, "radiographs shown on the page")
    overwrite: bool = flag(False, "replace the results in OUTPUT_DIR")
    draws: int = flag(2000, "bootstrap draws of the intervals of scores")
    seed: int = flag(0, "of the draws")
    batch_size: int = flag(16, "radiographs that go through the network together")
    num_workers: int = flag(2, "loader processes")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag(
        "fp32", "of the backbone", choices=("fp32", "auto", "tf32", "bf16", "fp16")
    )
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0, or 3 if some radiographs could not be read."""
    from workflows.bone_age.prediction import predict_ages

    return predict_ages(config)


if __name__ == "__main__":
    run(main, Config)
