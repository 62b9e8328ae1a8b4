"""The command line: flags, recipes, and sentences instead of tracebacks."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from core import flags as cli
from core.flags import flag, parse


@dataclasses.dataclass
class Config:
    """What the script does, 100 % of it."""

    data_path: list[Path] = flag(help="folders")
    out: str = flag("runs", "folder", alias="output-dir")
    blr: float = flag(1.5e-4, "rate, 50 % of it")
    steps: int | None = flag(None, "end")
    size: list[int] = flag([224], "side")
    norm_pix_loss: bool = flag(False, "normalise")
    pin: bool = flag(True, "pin")
    kind: str = flag("a", "kind", choices=("a", "b"))
    level: int = flag(1, "level", choices=(1, 2))


def refused(capsys, *argv, config=Config) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(config, [*map(str, argv)])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.count("\n") == 1 and "Traceback" not in told
    return told


def recipe(tmp_path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_flag_wins_over_recipe_over_default(tmp_path):
    path = recipe(tmp_path, "data_path: [a, b]\nblr: 1e-3\nsteps: 5\nnorm_pix_loss: true\n")
    config = parse(Config, ["--config", str(path), "--steps", "7", "--no-norm_pix_loss"])
    assert config == Config([Path("a"), Path("b")], blr=1e-3, steps=7, norm_pix_loss=False)
    assert parse(Config, ["--steps", "7", "--data_path", "c", "--config", str(path)]).data_path == [
        Path("c")
    ]
    assert parse(Config, ["--data_path", "c"]) == Config([Path("c")])


@pytest.mark.parametrize("spelling", ["--data_path", "--data-path"])
@pytest.mark.parametrize("boolean", ["--norm_pix_loss", "--norm-pix-loss"])
@pytest.mark.parametrize("alias", ["--out", "--output-dir", "--output_dir"])
def test_both_spellings(spelling, boolean, alias):
    config = parse(Config, [spelling, "x", "y", boolean, "--no-pin", alias, "o"])
    assert config == Config([Path("x"), Path("y")], norm_pix_loss=True, pin=False, out="o")


@pytest.mark.parametrize("key", ["out", "output_dir", "output-dir"])
def test_recipe_keys_may_be_spelt_like_flags(tmp_path, key):
    assert (
        parse(Config, ["--config", str(recipe(tmp_path, f"{key}: z\ndata-path: q\n"))]).out == "z"
    )


def test_lists():
    assert parse(Config, ["--data_path", "x", "--size", "32", "48"]).size == [32, 48]
    # paths add up, numbers do not: 224 and then 32 would be a rectangle
    config = parse(
        Config, ["--data_path", "x", "--data_path", "y", "--size", "224", "--size", "32"]
    )
    assert config.data_path == [Path("x"), Path("y")] and config.size == [32]
    first, second = Config([]), Config([])
    first.size.append(1)
    assert second.size == [224]


def test_one_value_in_a_recipe_stands_for_a_list_of_one(tmp_path):
    config = parse(
        Config, ["--config", str(recipe(tmp_path, "data_path: x\nsize: 32\nblr: 1\nsteps: null\n"))]
    )
    assert config == Config([Path("x")], size=[32], blr=1.0) and isinstance(config.blr, float)


@pytest.mark.parametrize(
    "argv, told",
    [
        ([], "give --data_path (a flag, or a key of the --config recipe)"),
        (["--data_path", "x", "--bl", "1"], "unrecognized arguments: --bl 1 (did you mean --blr?)"),
        (
            ["--data_path", "x", "--datapath=y"],
            "did you mean --data-path?|did you mean --data_path?",
        ),
        (["--data_path", "x", "--zzz"], "(see --help)"),
        (["stray", "--data_path", "x"], "unrecognized arguments: stray"),
        (["--data_path", "x", "--blr", "fast"], ": --blr must be a number, not 'fast'\n"),
        (["--data_path", "x", "--steps", "2.5"], ": --steps must be a whole number, not '2.5'\n"),
        (["--data_path", "x", "--size", "big"], ": --size must be a whole number, not 'big'\n"),
        (["--data_path", "x", "--kind", "c"], ": --kind must be one of a, b, not 'c'\n"),
        (["--data_path", "x", "--level", "3"], ": --level must be one of 1, 2, not 3\n"),
        (["--data_path"], ": --data_path needs at least one value\n"),
        (["--data_path", "x", "--blr"], ": --blr needs a value\n"),
        (["--data_path", "x", "--output-dir"], ": --out needs a value\n"),
        (["--data_path", "x", "--pin=yes"], ": --pin takes no value, but 'yes' was given\n"),
        (["--data_path", "x", "--pin", "yes"], "unrecognized arguments: yes"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["--config", "/"], "--config /: Is a directory"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_flags(capsys, argv, told):
    sentence = refused(capsys, *argv)
    assert any(part in sentence for part in told.split("|")), sentence


@pytest.mark.parametrize(
    "text, told",
    [
        ("data_pat: x", "unknown key 'data_pat' (did you mean 'data_path'?)"),
        ("zzz: 1", "unknown key 'zzz'"),
        ("config: x", "unknown key 'config'"),
        ("3: 1", "unknown key 3"),
        ("blr: fast", "blr: 'fast': expected a number\n"),
        ("steps: many", "steps: 'many': expected a whole number\n"),
        ("blr: true", "blr: True: expected a number"),
        ("blr: null", "blr: None: expected one value"),
        ("blr: [1, 2]", "blr: [1, 2]: expected one value"),
        ("steps: 2.5", "steps: 2.5: expected a whole number"),
        ("steps: yes", "steps: True: expected a number"),
        ("steps: {a: 1}", "expected one value"),
        ("size: [32, 2.5]", "expected a whole number"),
        ("size: [32, null]", "expected one value"),
        ("norm_pix_loss: 1", "norm_pix_loss: 1: expected true or false"),
        ("kind: c", "kind: 'c' is not one of a, b"),
        ("level: 3", "level: 3 is not one of 1, 2"),
        ("- a\n- b", "expected `key: value` lines"),
        ("just words", "expected `key: value` lines"),
        ("a: [", "not a YAML file"),
        ("a: !!python/object/apply:os.system [ls]", "not a YAML file"),
    ],
)
def test_wrong_recipes(tmp_path, capsys, text, told):
    sentence = refused(capsys, "--config", recipe(tmp_path, text), "--data_path", "x")
    assert told in sentence, sentence


def test_recipes_that_are_no_text_or_empty(tmp_path, capsys):
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00binary")
    assert "not a YAML file" in refused(capsys, "--config", tmp_path / "b.yaml", "--data_path", "x")
    (tmp_path / "e.yaml").write_text("# nothing\n")
    assert parse(Config, ["--config", str(tmp_path / "e.yaml"), "--data_path", "x"]) == Config(
        [Path("x")]
    )


def test_whole_numbers_written_as_floats_are_whole(tmp_path):
    config = parse(Config, ["--config", str(recipe(tmp_path, "data_path: x\nsteps: 1.0e+3\n"))])
    assert config.steps == 1000 and isinstance(config.steps, int)


def test_help_shows_every_flag_with_default_and_choices(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for text in (
        "What the script does, 100 % of it.",
        "--data_path",
        "(required)",
        "rate, 50 % of it [0.00015]",
        "[224]",
        "{a,b}",
        "--config",
        "--[no-]pin",
        "pin [on; --no-pin turns",
        "normalise [off]",
        "-h, --help  ",
        "folder (also --output-dir) [runs]",
    ):
        assert text in shown, text
    assert "--data-path" not in shown and "--output_dir" not in shown  # the twins double no line
    assert max(map(len, shown.splitlines())) <= 110


def run(monkeypatch, capsys, main) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--data_path", "x"])
    with pytest.raises(SystemExit) as caught:
        cli.run(main, Config)
    return caught.value.code, capsys.readouterr().err


def raises(error):
    def main(config):
        raise error

    return main


def test_the_exit_status_is_what_main_returns(monkeypatch, capsys):
    for status in (0, 3, 143):
        assert run(monkeypatch, capsys, lambda config, status=status: status) == (status, "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("say this"),
        FileNotFoundError("say this"),
        FileExistsError("say this"),
        PermissionError("say this"),
        IsADirectoryError("say this"),
        NotADirectoryError("say this"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_a_user_can_mend_is_told_in_one_sentence(monkeypatch, capsys, error):
    assert run(monkeypatch, capsys, raises(error)) == (2, "script.py: say this\n")


def test_the_sentence_comes_after_a_progress_bar_that_the_error_interrupted(monkeypatch, capsys):
    def steps():
        try:
            yield
        finally:
            print("bar is gone", file=sys.stderr)

    def main(config):
        waiting = steps()
        next(waiting)
        raise ValueError("say this")

    assert run(monkeypatch, capsys, main) == (2, "bar is gone\nscript.py: say this\n")


def test_a_full_disk_is_told(monkeypatch, capsys):
    status, told = run(monkeypatch, capsys, raises(OSError(28, "No space left on device", "x.pt")))
    assert status == 2 and "x.pt: No space left on device" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "main, kind",
    [
        (lambda config: json.loads("{"), ValueError),  # raised inside a library
        (raises(OSError(9, "Bad file descriptor")), OSError),
        (raises(RuntimeError("defect")), RuntimeError),
        (raises(KeyError("defect")), KeyError),
    ],
)
def test_defects_keep_their_traceback(monkeypatch, main, kind):
    monkeypatch.setattr(sys, "argv", ["script.py", "--data_path", "x"])
    with pytest.raises(kind):
        cli.run(main, Config)


def test_no_memory_left_is_told_with_a_remedy(monkeypatch, capsys):
    import numpy as np
    import torch

    @dataclasses.dataclass
    class Trainer:
        """Trains."""

        batch_size: int = flag(4, "size")
        accum_iter: int = flag(1, "times")

    @dataclasses.dataclass
    class Converter:
        """Converts."""

    mains = (
        raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
        raises(MemoryError()),
        lambda config: torch.empty(2**60),  # a million terabytes
        lambda config: np.ones(2**50),
    )
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py"])
    for main in mains:
        for config_class in (Trainer, Converter):
            with pytest.raises(SystemExit) as caught:
                cli.run(main, config_class)
            told = capsys.readouterr().err
            assert caught.value.code == 2 and told.count("\n") == 1 and "out of memory" in told
            assert ("a smaller --batch_size (a larger --accum_iter" in told) == (
                config_class is Trainer
            )
    with pytest.raises(RuntimeError, match="shapes"):
        cli.run(raises(RuntimeError("shapes do not match")), Trainer)


@dataclasses.dataclass
class Placed:
    """A list without a flag."""

    runs: list[Path] = flag(help="folders", positional=True)
    out: str = flag("here", "folder")


def test_a_list_without_a_flag(tmp_path, capsys):
    assert parse(Placed, ["a", "b", "--out", "c"]) == Placed([Path("a"), Path("b")], out="c")
    assert parse(Placed, ["--out", "c", "a"]) == Placed([Path("a")], out="c")
    file = recipe(tmp_path, "runs: [a, b]\n")
    assert parse(Placed, ["--config", str(file)]).runs == [Path("a"), Path("b")]
    assert parse(Placed, ["c", "--config", str(file)]).runs == [Path("c")]
    assert "give RUNS" in refused(capsys, config=Placed)
    with pytest.raises(SystemExit):
        parse(Placed, ["--help"])
    told = capsys.readouterr().out
    assert (
        " RUNS ... [--config YAML] [flags]" in told
        and "--runs" not in told
        and "\n  RUNS ...  " in told
    )


def test_help_breaks_no_flag_at_its_dashes(capsys):
    @dataclasses.dataclass
    class Long:
        """Help."""

        settle_norms: bool = flag(
            True, "measure the batch norms of the head anew after training, without dropout"
        )

    with pytest.raises(SystemExit):
        parse(Long, ["--help"])
    assert capsys.readouterr().out.count("--no-settle_norms ") == 1


@dataclasses.dataclass
class Switches:
    """Switches of another project's commands."""

    frozen: bool = flag(True, "frozen", words=True)
    wandb: bool = flag(False, "wandb", words=True)
    plain: bool = flag(False, "plain")


@pytest.mark.parametrize(
    "argv, expected",
    [
        ([], (True, False)),
        (["--frozen", "--wandb"], (True, True)),
        (["--frozen=True", "--wandb=False"], (True, False)),
        (["--frozen", "False", "--wandb", "true"], (False, True)),
        (["--no-frozen", "--wandb=1"], (False, True)),
        (["--frozen=0", "--plain"], (False, False)),
    ],
)
def test_switches_take_words_where_they_may(argv, expected):
    config = parse(Switches, argv)
    assert (config.frozen, config.wandb) == expected


@pytest.mark.parametrize(
    "argv", [["--frozen=yes"], ["--no-frozen=True"], ["--plain=True"], ["--plain", "True"]]
)
def test_other_words_after_a_switch_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Switches, argv)
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_an_endless_error_is_cut_in_its_middle(capsys, monkeypatch):
    def fail(config):
        raise ValueError(
            f"no column 'a'; it has {', '.join(map(str, range(50_000)))}; give another"
        )

    monkeypatch.setattr(sys, "argv", ["x.py", "--data_path", "a"])
    with pytest.raises(SystemExit):
        cli.run(fail, Config)
    told = capsys.readouterr().err
    assert (
        len(told) < 2_100
        and told.startswith("x.py: no column 'a'")
        and told.endswith("; give another\n")
    )


def test_the_end_of_a_script_does_not_look_for_garbage(tmp_path):
    """After large libraries were imported, it would take longer than the rest of the exit (1.4 s with torch)."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, gc, sys\n"
        f"sys.path.insert(0, {str(Path(cli.__file__).parents[1])!r})\n"
        "from core.flags import finish\n"
        "atexit.register(lambda: print(gc.get_count()[0] + len(gc.get_objects()), gc.get_freeze_count()))\n"
        "finish(lambda: 3, set())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    collected, frozen = map(int, done.stdout.split())
    assert done.returncode == 3 and collected < 1000 < frozen


def test_the_beginning_of_a_flag_is_answered_with_the_flag(capsys):
    assert "did you mean --norm_pix_loss?" in refused(capsys, "--data_path", "x", "--norm")
    assert "did you mean --level?" in refused(capsys, "--data_path", "x", "--levl", "1")
