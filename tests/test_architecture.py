"""The house rules, read from the source: who imports whom, what is never called, what starts at once."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("training", "data", "models", "evaluation")
# what a room may import of the others
MAY_IMPORT = {"training": set(), "data": {"training"}, "models": {"training"}, "evaluation": {"training"}}
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
STEPS = [path for path in EXPERIMENTS if "__main__" not in path.read_text(encoding="utf-8")]  # of experiments
SCRIPTS = sorted([*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py"), *(set(EXPERIMENTS) - set(STEPS))])
LIBRARY = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))
SOURCES = [*SCRIPTS, *STEPS, *LIBRARY]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {"torch", "numpy", "pandas", "PIL", "scipy", "sklearn", "matplotlib", "timm", "torchvision", "transformers",
         "pydicom", "yaml", "tqdm", "safetensors", "starlette", "uvicorn", "jinja2"}  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """The trees of all files are parsed once, and large."""
    yield
    for cached in (tree, imported, calls):
        cached.cache_clear()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> set[str]:
    """The first words of everything a file imports, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: relative import"
            found.add(node.module.split(".")[0])
    return found


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name, node) of every call."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_the_lists_are_not_empty():
    assert len(SCRIPTS) >= 3 and len(LIBRARY) >= 30 and ROOT / "pretrain_mae.py" in SCRIPTS
    assert ROOT / "experiments" / "compare_commits.py" in SCRIPTS and STEPS


@pytest.mark.parametrize("room", ROOMS)
def test_import_direction(room):
    outside = {path.stem for path in SCRIPTS} | {"scripts", "experiments", "tests"}
    forbidden = (set(ROOMS) | outside) - MAY_IMPORT[room] - {room}
    wrong = {name(path): imported(path) & forbidden for path in sorted((ROOT / room).glob("*.py"))}
    assert not {path: names for path, names in wrong.items() if names}


def test_scripts_do_not_import_each_other():
    stems = {path.stem for path in SCRIPTS} | {"scripts"}
    assert not {name(path): imported(path) & stems for path in SCRIPTS if imported(path) & stems}


def test_the_comparison_of_revisions_imports_nothing_of_ours():
    """It judges results of code that may be elsewhere in another revision."""
    path = ROOT / "experiments" / "output_trees.py"
    assert not imported(path) & ({*ROOMS, "scripts", "experiments"} | {path.stem for path in SCRIPTS})


def test_rooms_are_flat_packages_with_a_docstring():
    for room in ROOMS:
        init = tree(ROOT / room / "__init__.py")
        assert ast.get_docstring(init) and len(init.body) == 1, room
        assert not list((ROOT / room).glob("*/*.py")), f"{room}: folders in it are downloads, never code"


def test_downloads_stay_out_of_the_repository():
    rules = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/models/*/", "/data/*/"} <= set(rules)
    for path, ignored in (("models/skelex/config.json", True), ("data/BTXRD/a.png", True), ("data/new.py", False),
                          ("models/new.py", False)):  # fmt: skip
        done = subprocess.run(["git", "-C", ROOT, "check-ignore", "--no-index", "-q", path], check=False)
        if done.returncode == 128:
            pytest.skip("not a git checkout")
        assert (done.returncode == 0) == ignored, path


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_nothing_that_executes_what_it_reads(path):
    for function, node in calls(path):
        where, last = f"{name(path)}:{node.lineno}", function.split(".")[-1]
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("weights_only", "True") == "True", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert keywords.get("trust_remote_code", "False") == "False", where
        assert keywords.get("shell", "False") == "False", where
        assert function not in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system") or path in TESTS, where
        assert last != "extractall", where
        assert function not in ("pickle.load", "pickle.Unpickler", "joblib.load", "torch.hub.load"), where
        assert function != "yaml.load" or "Safe" in ast.unparse(node), where
        assert function not in ("yaml.full_load", "yaml.unsafe_load"), where
        if function == "pickle.loads":  # only to show that an object of ours survives the way between processes
            assert path in TESTS, where
        if function == "torch.load":
            assert "weights_only" in keywords, where


def test_training_state_is_saved_and_loaded_in_two_places():
    users = {name(path) for path in SOURCES for function, _ in calls(path) if function in ("torch.save", "torch.load")}
    assert users == {"training/run.py", "models/weights.py", "experiments/output_trees.py"}  # the last compares files


def test_no_global_seeding_or_printing_in_the_library():
    for path in LIBRARY:
        for function, node in calls(path):
            where = f"{name(path)}:{node.lineno}"
            assert not re.fullmatch(r"((np|numpy)\.random\.(?!default_rng)[a-z_]+|random\.\w+)", function), where
            if function == "print" and name(path) != "training/progress.py":
                assert any(k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords), where


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_public_name_explains_itself(path):
    module = tree(path)
    assert ast.get_docstring(module), "no module docstring"
    silent = [
        f"line {node.lineno}: {node.name}"
        for node in module.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not (path in SCRIPTS and node.name == "main")
        and not ast.get_docstring(node)
    ]
    assert not silent


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_say_how_to_run_them(path):
    assert f"python {name(path)}" in ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_help_comes_without_heavy_imports(path):
    """In a fresh interpreter, from another folder; which modules were imported is told at its end."""
    program = (
        "import atexit, json, runpy, sys\n"
        "path = sys.argv[1]\n"
        "atexit.register(lambda: print('MODULES', json.dumps(sorted({m.split('.')[0] for m in sys.modules}))))\n"
        "sys.argv = [path, '--help']\n"
        "sys.path.insert(0, path.rpartition('/')[0])\n"
        "runpy.run_path(path, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    shown, _, modules = done.stdout.partition("MODULES ")
    assert "usage" in shown.lower() and "--" in shown
    assert not HEAVY & set(json.loads(modules))


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_every_script_stays_offline(path):
    """Through `training.cli.run`, or by itself."""
    assert {"run", "stay_offline"} & {function for function, _ in calls(path)}


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt", "requirements-app.txt"])
def test_every_requirement_has_a_floor_and_no_pin(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("-r ")]
    assert lines and not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+>=[0-9.]+", line)]


def test_requirements_name_what_is_imported():
    distribution = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "scipy": "scikit-learn"}
    given = set(re.findall(r"^([A-Za-z0-9._-]+)>=", (ROOT / "requirements.txt").read_text(), re.M))
    own = {*ROOMS, "experiments"} | {path.stem for path in SCRIPTS}
    page = {"starlette", "uvicorn", "jinja2", "markupsafe"}  # of requirements-app.txt; jinja2 brings markupsafe
    of_page = set(re.findall(r"^([A-Za-z0-9._-]+)>=", (ROOT / "requirements-app.txt").read_text(), re.M))
    assert page - {"markupsafe"} <= of_page
    users = {name(path) for path in SOURCES if imported(path) & page}
    assert users == {"evaluation/page_server.py", "evaluation/page_protocol.py"}
    for path in SOURCES:
        outside = imported(path) - own - set(sys.stdlib_module_names) - {"tensorboard"} - page
        missing = {distribution.get(module, module) for module in outside} - given
        assert not missing, f"{name(path)} imports {missing}"


def test_shares_are_written_by_one_function():
    """`training.text.percent`: "75 %" everywhere."""
    own = re.compile(r"\{100 \* [^{}]*\} %|\{[^{}]*:\.\d%\}")
    found = [name(path) for path in SOURCES if path.name != "text.py" and own.search(path.read_text(encoding="utf-8"))]
    assert not found


def test_no_message_gives_the_name_of_an_exception():
    """`training.files.reason_of` says what went wrong; the others compare names, or log a defect with its traceback."""
    users = {name(path) for path in SOURCES if "type(error).__name__" in path.read_text(encoding="utf-8")}
    assert users <= {"training/cli.py", "data/dicom.py", "evaluation/page_middleware.py"}


def test_nobody_lists_folders_without_counting_the_other_files():
    found = [(name(path), node) for path in SOURCES for function, node in calls(path) if function == "list_radiographs"]
    silent = {where for where, node in found if "passed_over" not in {keyword.arg for keyword in node.keywords}}
    assert len(found) >= 7 and not silent


def test_no_file_is_a_drawer_for_everything():
    for path in [*SOURCES, *TESTS]:
        assert not re.search(r"utils?|helpers?|misc|common|manager", path.stem), name(path)


def test_test_files_have_names_of_their_own():
    stems = [path.stem for path in TESTS if path.stem.startswith("test_")]
    assert len(stems) == len(set(stems))


def test_no_recipe_states_what_only_its_user_knows():
    """A model card hands the licence of the data on; whoever takes a recipe has other data."""
    import yaml

    recipes = [path for path in (ROOT / "configs").glob("*.yaml") if path.name != "backbones.yaml"]
    assert len(recipes) >= 8
    for path in recipes:
        assert not {"licence", "data_path", "output_dir"} & set(yaml.safe_load(path.read_text())), path.name


def test_recipes_have_only_keys_that_are_flags():
    import dataclasses

    import yaml

    import pretrain_mae
    from training import cli

    known = {field.name for field in dataclasses.fields(pretrain_mae.Config)}
    recipes = sorted((ROOT / "configs").glob("*mae*.yaml"))
    recipes += [ROOT / "configs" / name for name in ("smoke.yaml", "small_set.yaml")]
    assert len(recipes) >= 5
    for path in recipes:
        assert set(yaml.safe_load(path.read_text())) <= known, path.name
        config = cli.parse(pretrain_mae.Config, ["--config", str(path), "--data_path", "x"])
        assert isinstance(config.input_size, list) and isinstance(config.epochs, float)
        assert path.read_text().startswith("# "), f"{path.name}: the first comment says where it comes from"
