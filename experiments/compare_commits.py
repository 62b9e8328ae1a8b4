"""Run two revisions of this repository with the same commands on the same phantoms and compare what they write.

    python experiments/compare_commits.py --old main --new HEAD
    python experiments/compare_commits.py --old v1 --new v2 --only mae dino --work /tmp/comparison --verbose

Both revisions are checked out as git worktrees, which are removed at the end. Each command runs in both at once, with
this interpreter, on one thread of the CPU in float32. The table counts the files of each stage by outcome; the content
of files is compared by `experiments/output_trees.py`. Phantoms have to be equal byte for byte. Messages on the
terminal are compared as well, but do not decide the exit status. Exit status: 0 if nothing differs, 1 if a file differs
or a command fails, 2 if the flags are wrong.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run
from core.progress import say, warn

ROOT = Path(__file__).resolve().parents[1]
COMPLETE = (
    0,
    3,
)  # exit statuses of a command that wrote its results; 3: it could not use some radiographs
MODIFIED = 1_600_000_000  # of all phantoms, seconds since 1970
OUT = "../out"  # seen from a worktree
DATA = f"{OUT}/phantoms"
CPU = "--device cpu --precision fp32"
FEW = "--num_workers 0"
PHANTOMS = "scripts/make_phantoms.py --difficulty clear --size 48"
MAE = (
    f"pretrain_mae.py --data_path {DATA}/train/images --val_path {DATA}/films/images --output_dir {OUT}/mae/run "
    f"--model mae_vit_tiny_patch8_dec32d1b --input_size 32 --batch_size 8 --epochs 3 --warmup_epochs 1 --lr 1e-3 "
    f"--panel_freq 1 --log_steps 1 --seed 1 {FEW} {CPU}"
)
BENCHMARK = (
    "scripts/train_downstream.py --input_size 32 --epochs 2 --warmup_epochs 1 --bs 8 --lr 1e-3 --cv 2 --test_split 0.2 "
    f"--no-verbose {FEW} {CPU}"
)
FRACATLAS = (
    f"{BENCHMARK} --data fracatlas --data_root {DATA}/fracatlas --backbones {OUT}/mae/run/model"
)
REGIONS = " ".join(
    [
        f"--btxrd_image_dir {DATA}/btxrd/images",
        f"--btxrd_annotation_dir {DATA}/btxrd/Annotations",
        f"--btxrd_metadata {DATA}/btxrd/dataset.csv",
        f"--snuh_bonetu_image_dir {DATA}/snuh/images",
        f"--snuh_bonetu_metadata {DATA}/snuh/metadata.csv",
    ]
)
REGION_FRACTURES = " ".join(
    [
        f"--fracatlas_image_dir {DATA}/fracatlas/images",
        f"--fracatlas_annotation_dir {DATA}/fracatlas/Annotations/YOLO",
        f"--fracatlas_metadata {DATA}/fracatlas/dataset.csv",
    ]
)
OTHER_REGIONS = (
    f"--snuh_bonetu_image_dir {DATA}/snuh_other/images "
    f"--snuh_bonetu_metadata {DATA}/snuh_other/metadata.csv"
)


@dataclass(frozen=True)
class Stage:
    """Commands that write below OUT/STAGE. needs: stages whose results they read. exact: every byte has to be equal."""

    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    exact: bool = False


STAGES = {
    "phantoms": Stage(
        (
            f"{PHANTOMS} --out {DATA}/train --n 40 --seed 1 --regions knee,hand",
            f"{PHANTOMS} --out {DATA}/films --n 10 --seed 2 --regions knee,hand --format dicom "
            f"--sheet {DATA}/sheet.png",
            f"{PHANTOMS} --out {DATA}/fracatlas --n 60 --seed 3 --layout fracatlas --regions hand,knee",
            f"{PHANTOMS} --out {DATA}/rsna_bone_age --n 40 --seed 4 --layout rsna_bone_age",
            f"{PHANTOMS} --out {DATA}/mura --n 24 --seed 5 --layout mura --traps",
            f"{PHANTOMS} --out {DATA}/btxrd --n 120 --seed 6 --layout btxrd --size 96",
            f"{PHANTOMS} --out {DATA}/snuh --n 60 --seed 7 --layout snuh",
            f"{PHANTOMS} --out {DATA}/snuh_other --n 24 --seed 8 --layout snuh",
        ),
        exact=True,
    ),
    "check": Stage(
        (
            f"scripts/check_data.py --in_dirs {DATA}/mura {DATA}/films --report {OUT}/check/report.csv "
            f"--manifest {OUT}/check/manifest.csv --duplicates {FEW}",
        ),
        ("phantoms",),
    ),
    "mae": Stage(
        (f"{MAE} --max_steps 7", MAE), ("phantoms",)
    ),  # the second command continues the first
    "dino": Stage(
        (
            f"scripts/pretrain_dino.py --data_path {DATA}/train/images --val_path {DATA}/films/images "
            f"--output_dir {OUT}/dino/run --arch vit_mini --patch_size 8 --global_size 32 --local_size 16 "
            "--local_crops_number 2 --out_dim 64 --head_width 32 --batch_size 8 --epochs 2 --warmup_epochs 1 "
            f"--panel_freq 1 --log_steps 1 {FEW} {CPU}",
        ),
        ("phantoms",),
    ),
    "heatmaps": Stage(
        (
            f"zero_shot_heatmap.py --model-path {OUT}/mae/run/model --in-dirs {DATA}/films/images "
            f"--out {OUT}/heatmaps/maps --passes 4 --masks complementary --num_workers 1 {CPU} "
            f"--reference {DATA}/train/images --force_reference --truth {DATA}/films/records.csv",
        ),
        ("phantoms", "mae"),
    ),
    "benchmark": Stage(
        (
            f"{FRACATLAS} {OUT}/dino/run/model --outdir {OUT}/benchmark/finetune",
            f"{FRACATLAS} --outdir {OUT}/benchmark/linear --protocol linear",
            f"{FRACATLAS} --outdir {OUT}/benchmark/knn --protocol knn",
            f"{BENCHMARK} --data boneage --data_root {DATA}/rsna_bone_age --backbones {OUT}/mae/run/model "
            f"--outdir {OUT}/benchmark/finetune",
            f"scripts/summarize_benchmark.py {OUT}/benchmark/finetune {OUT}/benchmark/linear {OUT}/benchmark/knn "
            f"--out {OUT}/benchmark/summary",
        ),
        ("phantoms", "mae", "dino"),
    ),
    "regions": Stage(
        (
            f"train_region_guided.py {REGIONS} {REGION_FRACTURES} --pretrained_path {OUT}/mae/run/model "
            f"--batch_size 16 --epochs 1 --n_splits 2 --test_fraction 0.2 --no-verbose {FEW} {CPU} "
            f"--output_dir {OUT}/regions/training",
            f"scripts/validate_region_guided.py {OTHER_REGIONS} --model_path {OUT}/regions/training --draws 200 "
            f"--output_dir {OUT}/regions/validation {FEW} {CPU}",
        ),
        ("phantoms", "mae"),
    ),
    "bone_age": Stage(
        (
            f"scripts/train_bone_age.py --data_root {DATA}/rsna_bone_age --backbone none:resnet10t --input_size 32 "
            f"--batch_size 8 --epochs 2 --output_dir {OUT}/bone_age/training --no-verbose {FEW} {CPU}",
            f"scripts/predict_bone_age.py --images {DATA}/rsna_bone_age/boneage-training-dataset --sex F --tta "
            f"--model_path {OUT}/bone_age/training/model --output_dir {OUT}/bone_age/prediction --draws 200 "
            f"{FEW} {CPU}",
        ),
        ("phantoms",),
    ),
    "features": Stage(
        (
            f"scripts/extract_features.py --model_path {OUT}/mae/run/model --in_dirs {DATA}/films/images --patch "
            f"--out {OUT}/features/features.npz {FEW} {CPU}",
        ),
        ("phantoms", "mae"),
    ),
    "attention": Stage(
        (
            f"scripts/draw_attention.py --model_path {OUT}/dino/run/model --in_dirs {DATA}/films/images "
            f"--out {OUT}/attention/maps --device cpu",
        ),
        ("phantoms", "dino"),
    ),
    "convert": Stage(
        (
            f"scripts/convert_checkpoint.py --in {OUT}/mae/run/model --to hf --out {OUT}/convert/hf --verify",
            f"scripts/convert_checkpoint.py --in {OUT}/convert/hf --to mae --out {OUT}/convert/mae",
        ),
        ("phantoms", "mae"),
    ),
}


@dataclass
class Config:
    """Run two revisions of this repository with the same commands and compare what they write."""

    old: str = flag(help="git revision to compare with, e.g. a branch, a tag or a commit")
    new: str = flag(help="git revision that should behave the same")
    work: Path | None = flag(
        None, "empty or new folder that keeps the results of both; default: a temporary one"
    )
    only: list[str] = flag(
        [],
        "only these stages and those whose results they read; default: all",
        choices=tuple(STAGES),
    )
    allow_text: bool = flag(
        False, "differences in the words of pages (.html, .md, .txt) do not count"
    )
    verbose: bool = flag(False, "also list the differences of messages")


@dataclass(frozen=True)
class Side:
    """One of the revisions. name: "old" or "new"; folder: holds its worktree, results and messages."""

    name: str
    commit: str
    folder: Path

    @property
    def code(self) -> Path:
        """The worktree, in which commands run."""
        return self.folder / "code"


def main(config: Config) -> int:
    """Exit status: 0 if nothing differs, 1 otherwise."""
    from experiments.output_trees import Names, compare_trees

    chosen = stages_with_needs(config.only)
    commits = {"old": commit_of(config.old), "new": commit_of(config.new)}
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # worktrees are removed then, too
    with work_folder(config.work) as folder, contextlib.ExitStack() as worktrees:
        sides = [Side(name, commit, folder / name) for name, commit in commits.items()]
        for side in sides:
            worktrees.enter_context(checked_out(side))
        names = [Names(words_of(side)) for side in sides]
        failures = run_stages(chosen, sides)
        outputs = {}
        messages = {}
        for stage in chosen:
            old, new = (side.folder / "out" / stage for side in sides)
            outputs[stage] = compare_trees(old, new, *names, exact=STAGES[stage].exact)
            old, new = (side.folder / "messages" / stage for side in sides)
            messages[stage] = compare_trees(old, new, *names)
    return report(outputs, messages, failures, config)


def stages_with_needs(only: list[str]) -> list[str]:
    """The stages of `only` (all if it is empty) and those whose results they read, in the order of `STAGES`."""
    wanted = set(only or STAGES)
    for stage in reversed(STAGES):  # a stage needs earlier ones alone
        if stage in wanted:
            wanted |= set(STAGES[stage].needs)
    return [stage for stage in STAGES if stage in wanted]


def git(*words: str, folder: Path = ROOT) -> str:
    """What a git command prints. ValueError if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise FileNotFoundError(
            "git is not installed; this script needs it to check out both revisions"
        ) from None
    if done.returncode:
        raise ValueError(
            f"git {shlex.join(words)} failed in {folder}: {' '.join(done.stderr.split())}"
        )
    return done.stdout.strip()


def commit_of(revision: str) -> str:
    """The commit of a revision. ValueError names a revision that is not in this repository."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except ValueError:
        raise ValueError(
            f"{revision!r} is not a revision of the git repository in {ROOT}"
        ) from None


@contextlib.contextmanager
def work_folder(folder: Path | None) -> Iterator[Path]:
    """The folder of both sides: the given one, which is kept, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="compare_commits_") as temporary:
            yield Path(temporary).resolve()
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--work {folder}: must be an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder.resolve()


@contextlib.contextmanager
def checked_out(side: Side) -> Iterator[None]:
    """A worktree of the side's commit."""
    side.folder.mkdir()
    try:
        git("worktree", "add", "--detach", str(side.code), side.commit)
        yield
    finally:
        if side.code.exists():
            git("worktree", "remove", "--force", str(side.code))


def words_of(side: Side) -> dict[str, str]:
    """Words in the results of a side that differ from those of the other side -> what they stand for."""
    described = git("describe", "--always", folder=side.code)
    return {
        str(side.folder): "FOLDER",
        side.commit: "REVISION",
        side.commit[:7]: "REVISION",
        described: "REVISION",
    }


def run_stages(chosen: list[str], sides: list[Side]) -> list[str]:
    """Run the commands of the stages on both sides. A command that fails is the last one; it is described."""
    for stage in chosen:
        began = time.monotonic()
        for number, command in enumerate(STAGES[stage].commands, 1):
            failures = run_command(stage, number, command, sides)
            if failures:
                return failures
        if STAGES[stage].exact:
            set_times(sides)
        warn(f"{stage}: {len(STAGES[stage].commands)} commands, {time.monotonic() - began:.0f} s")
    return []


def run_command(stage: str, number: int, command: str, sides: list[Side]) -> list[str]:
    """Run a command on both sides at once. Returns a sentence for each side if it fails or the exit statuses differ."""
    processes = []
    errors = []
    try:
        for side in sides:
            messages = side.folder / "messages" / stage
            (side.folder / "out" / stage).mkdir(parents=True, exist_ok=True)
            messages.mkdir(parents=True, exist_ok=True)
            errors.append(messages / f"{number}_stderr.txt")
            with (
                open(messages / f"{number}_stdout.txt", "wb") as stdout,
                open(errors[-1], "wb") as stderr,
            ):
                streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr}
                words = [sys.executable, *shlex.split(command)]
                processes.append(
                    subprocess.Popen(words, cwd=side.code, env=environment(), **streams)
                )
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    if statuses[0] == statuses[1] and statuses[0] in COMPLETE:
        return []
    return [
        f"{side.name}: exit status {status} of {command}: {last_line(error)}"
        for side, status, error in zip(sides, statuses, errors)
    ]


def set_times(sides: list[Side]) -> None:
    """Give all files that were written so far the same time of modification, on which hashes of data depend."""
    for side in sides:
        for path in (side.folder / "out").rglob("*"):
            os.utime(path, (MODIFIED, MODIFIED))


def environment() -> dict[str, str]:
    """This environment on one thread without a GPU, in which modules come from the current worktree alone."""
    changes = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": ""}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | changes


def last_line(file: Path) -> str:
    """The last line of a file of messages."""
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def report(outputs: dict, messages: dict, failures: list[str], config: Config) -> int:
    """Print the table and the differences of the stages. Exit status: 0 if nothing that counts differs, 1 otherwise."""
    from experiments.output_trees import PROSE

    titles = (
        "files",
        "identical",
        "equal",
        "DIFFERENT",
        "words",
        "only in old",
        "only in new",
        "messages",
    )
    say("  ".join([f"{'stage':<10}", *titles]))
    listed = []
    count = len(failures)
    for stage, found in outputs.items():
        prose = config.allow_text and not STAGES[stage].exact
        words = {path for path in found.different if prose and path.endswith(PROSE)}
        different = len(found.different) - len(words)
        count += different + len(found.only_old) + len(found.only_new)
        unlike = messages[stage].different
        counts = [found.files, len(found.identical), len(found.equal), different, len(words)]
        counts += [len(found.only_old), len(found.only_new), len(unlike)]
        cells = [f"{number:>{len(title)}}" for title, number in zip(titles, counts)]
        say("  ".join([f"{stage:<10}", *cells]))
        listed += [f"{stage}/{path}: {text}" for path, text in found.different.items()]
        listed += [f"{stage}/{path}: only in old" for path in found.only_old]
        listed += [f"{stage}/{path}: only in new" for path in found.only_new]
        if config.verbose:
            listed += [f"messages of {stage}, {path}: {text}" for path, text in unlike.items()]
    say(*listed, *failures, "nothing differs" if not count else f"number of differences: {count}")
    return 1 if count else 0


if __name__ == "__main__":
    run(main, Config)
