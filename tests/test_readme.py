"""The words are true: the README's commands run as they stand, and every flag, file, link and reason exists.

Commands run in the order of the page in an empty folder, as a reader would run them. Only paths that the page invents
(`PLACES`) are replaced, and small sizes appended (`SMALLER`); a later flag wins over an earlier one.
"""

import dataclasses
import importlib.util
import json
import re
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from core.flags import parse
from data.reading.refusal import REASONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
PLACES = {
    "/data/radiographs": "radiographs/images",
    "/data/chexpert": "radiographs/images",
    "/data/nih": "radiographs/images",
    "/data/table.csv": "radiographs/records.csv",
    "/path/to/images": "films/images",
    "/path/to/normals": "radiographs/images",
    "/path/to/annotations": "films/masks",
    "/path/to/output_dir": "out/paper",
    "runs/mae/model": "models/skelex",
    "demo/mae/model": "models/skelex",
    "data/phantom_train": "radiographs",
    "data/phantom_test": "films",
    "data/hands": "data/boneage-training-dataset",
}
SMALLER = {
    "pretrain_mae.py": "--model mae_vit_tiny_patch8_dec32d1b --input_size 32 --batch_size 4 --accum_iter 1 --epochs 1 "
    "--warmup_epochs 0 --num_workers 0 --device cpu --precision fp32",
    "zero_shot_heatmap.py": "--device cpu --num_workers 1",
    "make_phantoms.py": "--n 12 --size 48",
    "check_data.py": "--num_workers 0",
    "train_downstream.py": "--input_size 32 --epochs 1 --warmup_epochs 0 --bs 8 --cv 2 --num_workers 0 --device cpu "
    "--precision fp32 --no-verbose",
    "convert_checkpoint.py": "",
    "summarize_benchmark.py": "",
    "train_region_guided.py": "",
    "validate_region_guided.py": "",
    "pretrain_dino.py": "--arch vit_mini --patch_size 8 --global_size 32 --local_size 16 --local_crops_number 2 "
    "--out_dim 64 --head_width 32 --batch_size 4 --epochs 1 --warmup_epochs 0 --num_workers 0 --device cpu "
    "--precision fp32",
    "train_bone_age.py": "--backbone none:convnext_tiny --input_size 32 --batch_size 4 --epochs 1 --num_workers 0 "
    "--device cpu --precision fp32 --no-verbose",
    "predict_bone_age.py": "--num_workers 0 --device cpu --draws 20",
    "draw_attention.py": "--device cpu",
    "extract_features.py": "--num_workers 0 --device cpu",
    "app.py": "--device cpu",
    "evaluate_pretraining.py": "--device cpu --precision fp32 --labels 8 --steps 2 --batch_size 4 --most_maps 12 "
    "--passes 4 --tasks tumour",
}
NOT_RUN = (  # they make, fill or enter the environment that this test runs in
    "python3 -m venv .venv",
    "python3 -m pip install -r requirements-app.txt",
    "source .venv/bin/activate",
    "python3 -m pip download -r requirements.txt -r requirements-dev.txt -d wheels",
    "bash scripts/demo.sh",
    "bash scripts/test.sh",
)


def shell_blocks(text: str) -> list[str]:
    """The commands of all ```bash blocks, one string each."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    return [
        " ".join(line.split())
        for line in blocks.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def without_foreign_cells(text: str) -> str:
    """The page without the first column of "Coming from": other projects' commands."""
    head, section, rest = re.split(r"(?=^## Coming from$)|(?=^## Limits$)", text, flags=re.M)
    return head + re.sub(r"^\|.*?(?=\|)", "", section, flags=re.M) + rest


def inline_commands(text: str) -> list[str]:
    """Whole command lines of ours in backticks: table cells and running text."""
    return re.findall(r"`((?:python|torchrun) [^`]*\.py [^`]+)`", text)


def all_commands() -> list[str]:
    return [*shell_blocks(README), *inline_commands(without_foreign_cells(README))]


def split(command: str) -> tuple[str, list[str]]:
    """(script, its arguments) of a python or torchrun command; ("", ...) if it runs no script of ours."""
    words = shlex.split(command)
    at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    return ("", words) if at is None else (words[at], words[at + 1 :])


@cache
def module(script: str):
    """A script of ours as a module, without running it."""
    name = "documented_" + Path(script).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def understood(script: str, arguments: list[str]):
    """The arguments as the script's own parser reads them; SystemExit if it refuses."""
    own = module(script)
    return (
        parse(own.Config, arguments)
        if hasattr(own, "Config")
        else own.build_parser().parse_args(arguments)
    )


def spellings(script: str) -> set[str]:
    """Every flag that a script takes."""
    own = module(script)
    if not hasattr(own, "Config"):
        return set(own.build_parser()._option_string_actions)
    names = {
        name
        for f in dataclasses.fields(own.Config)
        for name in (f.name, *f.metadata.get("alias", ()))
    }
    names |= {name.replace("_", "-") for name in names}
    negated = {
        f"no-{n}"
        for f in dataclasses.fields(own.Config)
        if "bool" in str(f.type)
        for n in (f.name, f.name.replace("_", "-"))
    }
    return {f"--{name}" for name in names | negated | {"config", "help"}}


def small(command: str) -> tuple[str, list[str]]:
    """(script, arguments) on places that exist, at a size that takes seconds."""
    script, arguments = split(command)
    return script, [PLACES.get(word, word) for word in arguments] + SMALLER[
        Path(script).name
    ].split()


def run(command: str, monkeypatch, *more: str) -> int:
    """Run a documented command of one process in this one, with `more` flags; returns its exit status."""
    script, arguments = small(command)
    arguments += more
    own = module(script)
    if hasattr(own, "Config"):
        return own.main(parse(own.Config, arguments))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return own.main() or 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """An empty folder but for what the page takes for granted: recipes, radiographs, a checkpoint."""
    import torch

    from data.views.preprocessing import Preprocessing
    from models.networks.mae import MaskedAutoencoder, named_config
    from models.weights.checkpoint import save_mae
    from phantoms.layouts.registry import FolderWriter
    from phantoms.plan import Plan, phantoms

    desk = tmp_path_factory.mktemp("desk")
    for name in ("configs", "scripts"):
        (desk / name).symlink_to(ROOT / name)
    for name, seed, count in (("radiographs", 1, 24), ("films", 2, 12)):
        writer = FolderWriter(desk / name, "dicom" if name == "films" else "png16", seed)
        for phantom in phantoms(
            Plan(seed, 48, "clear", ("knee", "hand"), ("normal", "lytic")), count
        ):
            writer.add(phantom)
        writer.close()
    torch.manual_seed(0)
    mae = MaskedAutoencoder(named_config("mae_vit_tiny_patch8_dec32d1b", input_size=(32, 32)))
    save_mae(mae, desk / "models" / "skelex", Preprocessing(32, 32).to_dict(), "card")
    return desk


def test_the_page_is_read_as_meant():
    """Guards the guards: a changed heading or fence must not empty the lists below."""
    assert sum(bool(split(c)[0]) for c in shell_blocks(README)) >= 8
    inline = inline_commands(without_foreign_cells(README))
    assert sum(c.startswith("torchrun") for c in inline) >= 4 and any(
        "--passes 10" in c for c in inline
    )
    assert "main_pretrain" in README and "main_pretrain" not in without_foreign_cells(README)


@pytest.mark.parametrize("command", [c for c in all_commands() if split(c)[0]])
def test_every_command_parses(command, monkeypatch):
    script, arguments = split(command)
    assert (ROOT / script).is_file()
    monkeypatch.chdir(ROOT)  # recipes are named relative to it
    understood(script, arguments)
    if command.startswith("torchrun"):
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(shlex.split(command)[1:])
        assert parsed.training_script == script and int(parsed.nproc_per_node) >= 2


def test_every_flag_exists():
    from torch.distributed.run import get_args_parser

    scripts = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    scripts += [ROOT / "benchmarks" / "run_all.py", ROOT / "experiments" / "compare_commits.py"]
    known = set().union(*(spellings(path.relative_to(ROOT).as_posix()) for path in scripts))
    known |= set(get_args_parser()._option_string_actions)
    for part in ("install", "download"):
        pip = subprocess.run(
            [sys.executable, "-m", "pip", part, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        known |= set(re.findall(r"--[a-z][\w-]*", pip.stdout))
    pages = without_foreign_cells(README) + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", pages))
    assert len(mentioned) > 30
    assert sorted(mentioned - known) == []


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_pictures_are_small_enough_to_load():
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 400_000, picture.name


def test_reasons_are_those_of_the_reader():
    section = README.split("## What bad input leads to")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", section, re.M)) == REASONS


def named_files(section: str) -> set[str]:
    """Names in backticks in the first column of a section's tables."""
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", section, re.M)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_checking_as_documented(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    (command,) = [c for c in shell_blocks(README) if split(c)[0] == "scripts/check_data.py"]
    assert (
        run(command, monkeypatch) == 0
        and "written: manifest.csv, 24 files" in capsys.readouterr().out
    )
    assert run(command, monkeypatch) == 0
    told = capsys.readouterr().out
    assert (
        "manifest: all is as manifest.csv has noted" in told
        and "duplicates: no exact copies among " in told
    )
    assert Path("report.csv").read_text() == "path,reason,detail\n"
    assert len(Path("audit.csv").read_text().splitlines()) == 25


def test_pretraining_as_documented(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    commands = [
        c for c in all_commands() if split(c)[0] == "pretrain_mae.py" and c.startswith("python")
    ]
    assert len(commands) == 3
    for command in commands:
        assert run(command, monkeypatch) == 0
        folder = Path(understood(*split(command)).output_dir)
        assert (folder / "DONE").exists() and (folder / "model" / "model.safetensors").exists()
    capsys.readouterr()
    assert run(commands[0], monkeypatch) == 0 and "nothing to do" in capsys.readouterr().out
    section = README.split("| in the run folder | |")[1].split("\n## ")[0]
    listed = {name.rstrip("/") for name in named_files(section)}
    written = {p.name for p in Path("runs/mae").iterdir() if not p.name.startswith(".")}
    assert written <= listed and listed - written == {
        "quarantine.jsonl"
    }  # only where there is a cause


def test_dino_as_documented(desk, monkeypatch):
    monkeypatch.chdir(desk)
    dino, attention, features = (
        f"scripts/{name}.py" for name in ("pretrain_dino", "draw_attention", "extract_features")
    )
    commands = [c for c in shell_blocks(README) if split(c)[0] in (dino, attention, features)]
    assert [split(c)[0] for c in commands] == [dino, attention, features, features]
    for command in commands:
        assert run(command, monkeypatch) == 0
    examples = re.findall(
        r"^```python\n(import .*?)^```",
        README.split("## Features")[1].split("\n## ")[0],
        re.M | re.S,
    )
    assert len(examples) == 2
    names: dict = {}
    for example in examples:
        exec(
            example.replace("StratifiedGroupKFold(5)", "StratifiedGroupKFold(2)"), names
        )  # a dozen patients
    listed = named_files(README.split("### Where does a network look?")[1].split("\n## ")[0])
    written = {path.name for path in Path("runs/dino/attention").rglob("*") if path.is_file()}
    names_of = {re.sub(r"^.*_(attention|heads)\.", r"NAME_\1.", name) for name in written}
    assert names_of == listed
    table = names["table"]
    assert (
        len(table) == 24
        and set(table["sex"]) == {"F", "M"}
        and names["features"].shape == (24, 192)
    )
    assert ((0 <= names["scores"]) & (names["scores"] <= 1)).all()
    found = names["found"]
    assert (
        len(found["path"]) == len(found["cls"]) == len(found["mean"]) == 24
        and found["cls"].shape[1] == 192
    )


def test_heat_maps_as_documented(desk, monkeypatch):
    monkeypatch.chdir(desk)
    commands = [c for c in shell_blocks(README) if split(c)[0] == "zero_shot_heatmap.py"]
    assert len(commands) == 4
    assert commands[0] in inline_commands(
        without_foreign_cells(README)
    )  # the table repeats the page's first command
    for command in commands:
        assert run(command, monkeypatch) == 0
    written = {
        p.relative_to(folder).as_posix()
        for folder in Path("out").iterdir()
        for p in folder.rglob("*")
    }
    written = {
        re.sub(r"^images/.*?(_error|_hotspot|_z)?(\.\w+)$", r"FOLDER/NAME\1\2", name)
        for name in written
    }
    section = README.split("## Heat maps")[1].split("\n## ")[0]
    assert written - {"images"} == named_files(section) - {
        ".overlays/"
    }  # that one goes when the run ends


def test_phantoms_as_documented(desk, monkeypatch):
    monkeypatch.chdir(desk)
    commands = [c for c in shell_blocks(README) if split(c)[0] == "scripts/make_phantoms.py"]
    assert len(commands) == 5
    for command in commands:
        assert run(command, monkeypatch, "--overwrite") == 0
        assert any(understood(*split(command)).out.iterdir())
    assert Path("data/phantoms/images").is_dir() and Path("data/phantoms/records.csv").is_file()
    assert Path("sheet.png").is_file()


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures of results take half a second each."""
    for module in ("evaluation.pages.charts", "workflows.benchmark.ranking_charts"):
        monkeypatch.setattr(f"{module}._png", lambda figure: b"")


def test_comparing_backbones_as_documented(desk, no_pictures, monkeypatch):
    """The page's command word for word, on phantoms in the release's layout and tiny weights where the aliases say."""
    import timm
    from safetensors.torch import save_file

    from models.backbones import names as backbone_names
    from models.backbones.aliases import read_aliases
    from phantoms.layouts.registry import WRITERS, fit_plan
    from phantoms.plan import Plan, phantoms

    monkeypatch.chdir(desk)
    writer = WRITERS["fracatlas"](desk / "data" / "FracAtlas", "jpeg", 5)
    for phantom in phantoms(
        fit_plan("fracatlas", Plan(5, 48, "clear", (), ("normal", "fracture"))), 60
    ):
        writer.add(phantom)
    writer.close()
    network = timm.create_model("resnet10t", num_classes=0)
    save_file(network.state_dict(), desk / "models" / "resnet10t.safetensors")
    tiny = {"weights": desk / "models" / "resnet10t.safetensors", "architecture": "resnet10t"}
    places = {"skelex": {"weights": desk / "models" / "skelex"}, "resnet-101": tiny}
    known = read_aliases()
    known |= {name: dataclasses.replace(known[name], **changes) for name, changes in places.items()}
    monkeypatch.setattr(backbone_names, "read_aliases", lambda path: known)
    commands = [c for c in shell_blocks(README) if split(c)[0] == "scripts/train_downstream.py"]
    assert len(commands) == 2 and run(commands[0], monkeypatch) == 0
    out = Path("runs/fracatlas")
    section = README.split("| in OUTDIR/DATA | |")[1].split("\n\n")[0]
    assert len(named_files(section)) >= 8
    for name in named_files(section):
        for backbone in places:
            place = name.replace("BACKBONE", backbone).replace("foldK", "fold1")
            assert "COLUMN" in name or (out / place).exists(), place
    (example,) = [
        c for c in shell_blocks(README) if "data/phantom_fracatlas" in c and "make_phantoms" in c
    ]
    assert run(example, monkeypatch, "--n", "90", "--overwrite") == 0
    for command in (*commands[1:], *summaries()):
        assert run(command, monkeypatch) == 0
    section = README.split("| in `--out` | |")[1].split("\n\n")[0]
    for name in named_files(section) - {
        "table_SETTING.csv",
        "rank_pairs.csv",
    }:  # pairs: of three backbones or more
        assert (Path("runs/summary") / name).is_file(), name
    assert list(Path("runs/summary").glob("table_*.csv"))


@pytest.mark.slow
def test_bone_age_as_documented(desk, no_pictures, monkeypatch, capsys):
    """Phantom hands where BoneXage has RSNA's; the list that its line names."""
    from phantoms.layouts.registry import WRITERS, fit_plan
    from phantoms.plan import Plan, phantoms

    monkeypatch.chdir(desk)
    writer = WRITERS["rsna_bone_age"](desk / "hands", "png8", 3)
    for phantom in phantoms(fit_plan("rsna_bone_age", Plan(3, 48)), 12):
        writer.add(phantom)
    writer.close()
    (desk / "data").mkdir(exist_ok=True)
    for path in (desk / "hands").glob("boneage-training-dataset*"):
        path.rename(desk / "data" / path.name)
    images = sorted(Path("data/boneage-training-dataset").rglob("*.png"))
    Path("image_list.txt").write_text("\n".join(map(str, images[:2])) + "\n")
    names = ("scripts/train_bone_age.py", "scripts/predict_bone_age.py")
    commands = [c for c in shell_blocks(README) if split(c)[0] in names]
    assert [split(c)[0] for c in commands] == [names[0], names[0], names[1], names[1]]
    (drawing,) = [c for c in shell_blocks(README) if "make_phantoms" in c and "phantom_hands" in c]
    assert run(drawing, monkeypatch, "--overwrite") == 0
    for command in commands:
        assert run(command, monkeypatch) == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"^{re.escape(str(images[0]))}: \d+ years? \d+ months? \(\d+\.\d months\)$", said, re.M
    )
    for head, folder in (
        ("| in `--output_dir` (`checkpoints`) | |", "checkpoints"),
        ("| in `--output_dir` | |\n|---|---|\n| `index.html`", "outputs/bone_age"),
    ):
        listed = named_files(head.split("\n")[-1] + README.split(head)[1].split("\n\n")[0])
        lost = {name for name in listed if not (Path(folder) / name).exists()}
        assert len(listed) >= 3 and lost <= {
            "failed.csv",
            "scores.csv",
            "subgroups.csv",
            "comparisons.csv",
            "report.html",
        }


def test_page_as_documented(desk, monkeypatch, capsys):
    """The page's commands up to the moment that they serve; what they would serve is asked in this process."""
    pytest.importorskip("starlette", reason="no starlette: requirements-app.txt")
    pytest.importorskip("uvicorn", reason="no uvicorn: requirements-app.txt")
    from app_pieces import write_networks
    from asgi_client import ask

    monkeypatch.chdir(desk)
    monkeypatch.delenv("APP_AUTH", raising=False)
    write_networks(Path("outputs/skelex_result"))
    film = min(Path("films/images").iterdir()).read_bytes()
    answers = []

    def serve(app, listener, ready):
        ready()
        headers = {"content-type": "application/octet-stream"}
        answers.append(
            (ask(app).text, ask(app, "POST", "/radiograph", chunks=[film], headers=headers).text)
        )

    monkeypatch.setattr("workflows.regions.web.server.serve", serve)
    monkeypatch.setattr("workflows.regions.web.service.forbid_core_dumps", lambda: None)
    commands = [c for c in shell_blocks(README) if split(c)[0] == "scripts/app.py"]
    assert len(commands) == 2
    for command in commands:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        assert run(command, monkeypatch, "--port", str(free)) == 0
        assert f"http://127.0.0.1:{free}" in capsys.readouterr().out
    (guided, case), (alone, error_map) = answers
    assert 'id="regions"' in guided and "data-part='tumour'" in case and "alt='error map'" in case
    assert (
        'id="regions"' not in alone
        and "What the map cannot say" in error_map
        and "data-part" not in error_map
    )


def summaries() -> list[str]:
    return [c for c in shell_blocks(README) if split(c)[0] == "scripts/summarize_benchmark.py"]


def test_other_commands_are_accounted_for():
    others = [c for c in shell_blocks(README) if not split(c)[0]]
    assert set(NOT_RUN) <= set(others)
    for command in (c for c in others if not is_offline_installation(c)):
        assert command in NOT_RUN, command
    for command in (c for c in others if c.startswith("bash ")):
        checked = subprocess.run(
            ["bash", "-n", ROOT / command.split()[1]], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr


def is_offline_installation(command: str) -> bool:
    """Whether a command installs packages into the environment that the tests run in."""
    return shlex.split(command)[:4] == [".venv/bin/python", "-m", "pip", "install"]


@pytest.mark.slow
def test_offline_installation_as_documented(tmp_path):
    """pip on an empty folder of wheels: everything is installed, so nothing is missing."""
    commands = [c for c in shell_blocks(README) if is_offline_installation(c)]
    assert commands
    (tmp_path / "wheels").mkdir()
    for command in commands:
        arguments = [
            str(ROOT / word) if word.endswith(".txt") else word for word in shlex.split(command)[1:]
        ]
        arguments = [sys.executable, *arguments, "--no-index", "--dry-run"]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_conversion_as_documented(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    commands = [c for c in shell_blocks(README) if split(c)[0] == "scripts/convert_checkpoint.py"]
    assert len(commands) == 3
    for command in commands:
        assert run(command, monkeypatch) == 0
    assert capsys.readouterr().out.count("equal within") == 3


@pytest.mark.slow
def test_evaluation_as_documented(desk, monkeypatch):
    monkeypatch.chdir(desk)
    (command,) = [
        c for c in shell_blocks(README) if split(c)[0] == "scripts/evaluate_pretraining.py"
    ]
    assert run(command, monkeypatch) == 0
    assert Path("runs/mae/evaluation/results.md").stat().st_size > 0


@pytest.mark.slow
def test_checkpoint_example_as_documented(desk, monkeypatch):
    (example,) = re.findall(r"^```python\n(from transformers.*?)^```", README, re.M | re.S)
    names: dict = {}
    exec(example.replace("runs/mae/model", str(desk / "models" / "skelex")), names)
    assert names["model"].config.hidden_size == 192


def torchrun_lines() -> list[str]:
    """Ours; DAX's line, with its places, is run in tests/scripts/test_pretrain_dino.py."""
    found = [c for c in inline_commands(without_foreign_cells(README)) if c.startswith("torchrun")]
    return [c for c in found if "path/to/dataset" not in c]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(torchrun_lines())))
def test_many_processes_as_documented(desk, number):
    """torchrun with 2 processes in all; the two nodes are two launchers on this machine, with one process each."""
    command = torchrun_lines()[number]
    script, arguments = small(command)
    launcher = shlex.split(command)[1 : shlex.split(command).index(script)]
    nodes = 2 if "--nnodes" in launcher else 1
    launcher[launcher.index("--nproc_per_node") + 1] = str(2 // nodes)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    launcher = [word.replace("HOST:29500", f"127.0.0.1:{free}") for word in launcher]
    launcher += [] if nodes == 2 else ["--master_port", str(free)]
    out = f"runs/processes{number}"
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *launcher,
        ROOT / script,
        *arguments,
        "--output_dir",
        out,
    ]
    line += ["--batch_size", "2"]
    running = [
        subprocess.Popen(
            line, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(nodes)
    ]
    told = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0] * nodes, told
    assert (desk / out / "DONE").exists()


@pytest.mark.slow
def test_figures_can_be_run_again():
    """Each `pytest` line of CONTRIBUTING's table of figures selects at least one test."""
    table = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .split("| figure |")[1]
        .split("\n\n")[0]
    )
    lines = re.findall(r"\| `([^`]+)` \| [^|]+ \|$", table, re.M)
    assert len(lines) >= 12
    collect = (  # all lines in one process, which imports the test files once
        "import json, sys, pytest\n"
        "failed = [line for line, words in json.loads(sys.argv[1])"
        " if pytest.main(['--collect-only', '-qq', '-m', '', *words])]\n"
        "sys.exit('selects no test: ' + str(failed) if failed else 0)"
    )
    words = json.dumps([(line, shlex.split(line)) for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", collect, words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
