"""The oldest versions that requirements.txt allows: installed for real in a fresh environment, and tested with."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = (
    "tests/models",
    "tests/training",
    "tests/data",
    "tests/scripts/test_convert_checkpoint.py",
    "tests/test_malicious_files.py",
)
GIGABYTES = 12  # torch and its libraries, unpacked and as downloads


def floors() -> list[str]:
    """Each `X>=V` as `X==V`; of the tools, pytest alone."""
    lines = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)>=([0-9.]+)", lines, re.M)
    return [f"{name}=={version}" for name, version in found if name not in ("ruff", "tensorboard")]


def run(*command, seconds: int) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["nice", "-n", "10", *map(str, command)],
        cwd=ROOT,
        env=environment,
        timeout=seconds,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_floors_work_together(tmp_path):
    """Our exported folders and the Hugging Face families, too, with the oldest transformers that is allowed."""
    if shutil.disk_usage(tmp_path).free < GIGABYTES << 30:
        pytest.skip(f"less than {GIGABYTES} GiB of disk are free")
    wanted = floors()
    assert len(wanted) >= 20
    python = tmp_path / "venv" / "bin" / "python"
    try:
        assert run(sys.executable, "-m", "venv", python.parents[1], seconds=120).returncode == 0
        installed = run(
            python, "-m", "pip", "install", "--disable-pip-version-check", *wanted, seconds=1500
        )
        told = installed.stdout + installed.stderr
        if re.search(
            r"NewConnectionError|Temporary failure in name resolution|Network is unreachable", told
        ):
            pytest.skip("the package index cannot be reached")
        assert installed.returncode == 0, told[-3000:]
        assert "is a yanked version" not in told, re.findall("candidate: .*", told)
        tested = run(python, "-m", "pytest", "-p", "no:cacheprovider", *CORE, seconds=1800)
        assert tested.returncode == 0, tested.stdout[-5000:]
        assert re.search(r"\d{3} passed", tested.stdout)
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)
