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
ROOMS = ("core", "training", "data", "models", "evaluation", "phantoms", "workflows")
LIBRARIES = {"core", "training"}
# what a room may import of the others
MAY_IMPORT = {
    "core": set(),
    "training": {"core"},
    "data": LIBRARIES,
    "models": LIBRARIES,
    "evaluation": LIBRARIES,
    "phantoms": LIBRARIES,
    "workflows": LIBRARIES | {"data", "models", "evaluation", "phantoms"},
}
# inside a room: a folder imports of those before it alone; folders of folders count as one
ORDER = {
    "data": ("data.reading", "data.tables", "data.views", "data.datasets", "data.releases"),
    "models": ("models.networks", "models.weights", "models.backbones"),
    "evaluation": ("evaluation.statistics", "evaluation.maps", "evaluation.pages"),
    "phantoms": ("phantoms.body", "phantoms.imaging", "phantoms", "phantoms.layouts"),
}
MOST_FILES = 15  # of one folder
CODE_FOLDERS = {  # of the folders that hold downloads, too
    "data": {"datasets", "reading", "releases", "tables", "views"},
    "models": {"backbones", "networks", "weights"},
}
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
STEPS = [
    path for path in EXPERIMENTS if "__main__" not in path.read_text(encoding="utf-8")
]  # of experiments
SCRIPTS = sorted(
    [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py"), *(set(EXPERIMENTS) - set(STEPS))]
)
LIBRARY = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
SOURCES = [*SCRIPTS, *STEPS, *LIBRARY]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "PIL",
    "scipy",
    "sklearn",
    "matplotlib",
    "timm",
    "torchvision",
    "transformers",
    "pydicom",
    "yaml",
    "tqdm",
    "safetensors",
    "starlette",
    "uvicorn",
    "jinja2",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """The trees of all files are parsed once, and large."""
    yield
    for cached in (tree, imported, imported_modules, calls):
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
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
    ]


def test_the_lists_are_not_empty():
    assert len(SCRIPTS) >= 3 and len(LIBRARY) >= 30 and ROOT / "pretrain_mae.py" in SCRIPTS
    assert ROOT / "experiments" / "compare_commits.py" in SCRIPTS and STEPS


@cache
def imported_modules(path: Path) -> set[str]:
    """Modules of ours that a file imports, inside functions too."""
    modules = {module_of(other) for other in LIBRARY}
    targets = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= (full & modules) or {node.module}
    return targets & modules


def module_of(path: Path) -> str:
    words = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def folder_of(module: str) -> str:
    """The folder of a module in the order of its room: at most one level below the room."""
    return ".".join(module.split(".")[:-1][:2])


@pytest.mark.parametrize("room", ROOMS)
def test_import_direction(room):
    outside = {path.stem for path in SCRIPTS} | {"scripts", "experiments", "tests"}
    forbidden = (set(ROOMS) | outside) - MAY_IMPORT[room] - {room}
    wrong = {name(path): imported(path) & forbidden for path in sorted((ROOT / room).rglob("*.py"))}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize("room", ORDER)
def test_folders_of_a_room_import_of_those_before_them(room):
    order = ORDER[room]
    for path in sorted((ROOT / room).rglob("*.py")):
        if path.name == "__init__.py":
            continue
        own = order.index(folder_of(module_of(path)))
        for module in imported_modules(path):
            if module.startswith(f"{room}."):
                assert order.index(folder_of(module)) <= own, f"{name(path)} imports {module}"


def test_workflows_do_not_import_each_other():
    for path in sorted((ROOT / "workflows").rglob("*.py")):
        own = folder_of(module_of(path))
        for module in imported_modules(path):
            assert not module.startswith("workflows.") or folder_of(module) == own, (
                f"{name(path)} imports {module}"
            )


def test_no_circle_of_imports():
    imports = {module_of(path): imported_modules(path) - {module_of(path)} for path in LIBRARY}
    while free := {module for module, others in imports.items() if not others & imports.keys()}:
        imports = {module: others for module, others in imports.items() if module not in free}
    assert not imports


def test_scripts_do_not_import_each_other():
    stems = {path.stem for path in SCRIPTS} | {"scripts"}
    assert not {name(path): imported(path) & stems for path in SCRIPTS if imported(path) & stems}


def test_the_comparison_of_revisions_imports_nothing_of_ours():
    """It judges results of code that may be elsewhere in another revision."""
    path = ROOT / "experiments" / "output_trees.py"
    assert not imported(path) & (
        {*ROOMS, "scripts", "experiments"} | {path.stem for path in SCRIPTS}
    )


def test_rooms_are_packages_with_a_docstring():
    folders = {path.parent for path in LIBRARY}
    for folder in folders:
        init = tree(folder / "__init__.py")
        assert ast.get_docstring(init) and len(init.body) == 1, folder
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_tests_mirror_the_rooms():
    folders = {path.parent for path in LIBRARY} | {
        ROOT / name for name in ("scripts", "benchmarks", "experiments", "golden")
    }
    mirrored = {path.parent for path in TESTS if path.name.startswith("test_")} - {ROOT / "tests"}
    assert not {
        folder for folder in mirrored if ROOT / folder.relative_to(ROOT / "tests") not in folders
    }


@pytest.mark.parametrize(
    "path, ignored",
    [
        ("models/skelex/config.json", True),
        ("models/new.py", False),
        ("models/weights/new.py", False),
        ("data/BTXRD/a.png", True),
        ("data/new.py", False),
        ("data/reading/dicom/new.py", False),
        ("data/releases/new.py", False),
    ],
)
def test_downloads_stay_out_of_the_repository(path, ignored):
    done = subprocess.run(
        ["git", "-C", ROOT, "check-ignore", "--no-index", "-q", path], check=False
    )
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert (done.returncode == 0) == ignored


def test_no_documented_folder_is_one_of_the_code():
    for room, own in CODE_FOLDERS.items():
        assert {
            path.name for path in (ROOT / room).iterdir() if (path / "__init__.py").exists()
        } == own
        for page in [
            ROOT / "README.md",
            *(ROOT / "docs").glob("*.md"),
            *(ROOT / "scripts").glob("*.sh"),
        ]:
            text = page.read_text(encoding="utf-8")
            documented = set(re.findall(rf"(?<![\w/])\.?/?{room}/([\w.-]+)(?=/|\s|`)", text))
            assert not {
                folder
                for folder in documented & own
                if not re.search(rf"{room}/{folder}/[a-z_/]+\.py", text)
            }


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_nothing_that_executes_what_it_reads(path):
    for function, node in calls(path):
        where, last = f"{name(path)}:{node.lineno}", function.split(".")[-1]
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("weights_only", "True") == "True", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert keywords.get("trust_remote_code", "False") == "False", where
        assert keywords.get("shell", "False") == "False", where
        assert (
            function not in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system")
            or path in TESTS
        ), where
        assert last != "extractall", where
        assert function not in (
            "pickle.load",
            "pickle.Unpickler",
            "joblib.load",
            "torch.hub.load",
        ), where
        assert function != "yaml.load" or "Safe" in ast.unparse(node), where
        assert function not in ("yaml.full_load", "yaml.unsafe_load"), where
        if (
            function == "pickle.loads"
        ):  # only to show that an object of ours survives the way between processes
            assert path in TESTS, where
        if function == "torch.load":
            assert "weights_only" in keywords, where


def test_training_state_is_saved_and_loaded_in_two_places():
    users = {
        name(path)
        for path in SOURCES
        for function, _ in calls(path)
        if function in ("torch.save", "torch.load")
    }
    assert users == {
        "training/run.py",
        "models/weights/checkpoint.py",
        "experiments/output_trees.py",
    }  # the last compares files


def test_no_global_seeding_or_printing_in_the_library():
    for path in LIBRARY:
        for function, node in calls(path):
            where = f"{name(path)}:{node.lineno}"
            assert not re.fullmatch(
                r"((np|numpy)\.random\.(?!default_rng)[a-z_]+|random\.\w+)", function
            ), where
            if function == "print" and name(path) != "core/progress.py":
                assert any(
                    k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords
                ), where


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
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    shown, _, modules = done.stdout.partition("MODULES ")
    assert "usage" in shown.lower() and "--" in shown
    assert not HEAVY & set(json.loads(modules))


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_every_script_stays_offline(path):
    """Through `core.flags.run`, or by itself."""
    assert {"run", "stay_offline"} & {function for function, _ in calls(path)}


@pytest.mark.parametrize(
    "file", ["requirements.txt", "requirements-dev.txt", "requirements-app.txt"]
)
def test_every_requirement_has_a_floor_and_no_pin(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("-r ")]
    assert lines and not [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+>=[0-9.]+", line)
    ]


def test_requirements_name_what_is_imported():
    distribution = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "scipy": "scikit-learn",
    }
    given = set(re.findall(r"^([A-Za-z0-9._-]+)>=", (ROOT / "requirements.txt").read_text(), re.M))
    own = {*ROOMS, "experiments"} | {path.stem for path in SCRIPTS}
    page = {
        "starlette",
        "uvicorn",
        "jinja2",
        "markupsafe",
    }  # of requirements-app.txt; jinja2 brings markupsafe
    of_page = set(
        re.findall(r"^([A-Za-z0-9._-]+)>=", (ROOT / "requirements-app.txt").read_text(), re.M)
    )
    assert page - {"markupsafe"} <= of_page
    users = {name(path) for path in SOURCES if imported(path) & page}
    assert users == {"workflows/regions/web/server.py", "workflows/regions/web/connections.py"}
    for path in SOURCES:
        outside = imported(path) - own - set(sys.stdlib_module_names) - {"tensorboard"} - page
        missing = {distribution.get(module, module) for module in outside} - given
        assert not missing, f"{name(path)} imports {missing}"


def test_shares_are_written_by_one_function():
    """`core.text.percent`: "75 %" everywhere."""
    own = re.compile(r"\{100 \* [^{}]*\} %|\{[^{}]*:\.\d%\}")
    found = [
        name(path)
        for path in SOURCES
        if path.name != "text.py" and own.search(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_no_message_gives_the_name_of_an_exception():
    """`core.files.reason_of` says what went wrong; the others compare names, or log a defect with its traceback."""
    users = {
        name(path) for path in SOURCES if "type(error).__name__" in path.read_text(encoding="utf-8")
    }
    assert users <= {
        "core/flags.py",
        "data/reading/dicom/image.py",
        "workflows/regions/web/middleware.py",
    }


def test_nobody_lists_folders_without_counting_the_other_files():
    found = [
        (name(path), node)
        for path in SOURCES
        for function, node in calls(path)
        if function == "list_radiographs"
    ]
    silent = {
        where
        for where, node in found
        if "passed_over" not in {keyword.arg for keyword in node.keywords}
    }
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
        assert not {"licence", "data_path", "output_dir"} & set(yaml.safe_load(path.read_text())), (
            path.name
        )


def test_recipes_have_only_keys_that_are_flags():
    import dataclasses

    import yaml

    import pretrain_mae
    from core import flags as cli

    known = {field.name for field in dataclasses.fields(pretrain_mae.Config)}
    recipes = sorted((ROOT / "configs").glob("*mae*.yaml"))
    recipes += [ROOT / "configs" / name for name in ("smoke.yaml", "small_set.yaml")]
    assert len(recipes) >= 5
    for path in recipes:
        assert set(yaml.safe_load(path.read_text())) <= known, path.name
        config = cli.parse(pretrain_mae.Config, ["--config", str(path), "--data_path", "x"])
        assert isinstance(config.input_size, list) and isinstance(config.epochs, float)
        assert path.read_text().startswith("# "), (
            f"{path.name}: the first comment says where it comes from"
        )


LAZY = {  # modules that import inside functions
    "core/flags.py",  # `--help` needs neither YAML nor what keeps a run offline
    "core/progress.py",  # nor bars
    "workflows/regions/web/service.py",  # without Starlette, one sentence says what to install
}


def test_modules_import_at_the_top():
    """Only scripts import inside functions, so that `--help` is instant."""
    lazy = {
        name(path)
        for path in LIBRARY
        for function in ast.walk(tree(path))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(function))
    }
    assert lazy == LAZY


def test_scripts_are_thin():
    """A script holds flags; what it does is in a workflow."""
    own = {"Config", "main"}
    defined = {
        name(path): {node.name for node in tree(path).body if hasattr(node, "name")} - own
        for path in SCRIPTS
        if path.parent != ROOT / "experiments"
    }
    fat = {path for path, names in defined.items() if names}
    assert fat <= {"scripts/draw_docs.py", "scripts/make_phantoms.py"}


def test_the_formatter_lays_out_all_code():
    marks = ("fmt: " + "skip", "fmt: " + "off")
    for path in [*SOURCES, *TESTS]:
        text = path.read_text(encoding="utf-8")
        assert not any(mark in text for mark in marks), name(path)


def test_a_statement_assigns_one_value():
    """Tuples are assigned to tuples for swaps alone."""
    assignments = [
        node for path in SOURCES for node in ast.walk(tree(path)) if isinstance(node, ast.Assign)
    ]
    pairs = [
        node
        for node in assignments
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    ]
    assert len(pairs) <= 0.015 * len(assignments)
