"""What processes must share, found out at the start."""

import os

import pytest
from fork_harness import exit_status, group
from script_runs import pretraining, spoken

from core.system import distributed
from training.run import RunFolder


def test_a_folder_that_all_see_is_accepted_and_left_as_it_was(tmp_path):
    def member() -> int:
        distributed.require_shared(tmp_path)
        distributed.barrier()
        return len(os.listdir(tmp_path))

    assert [exit_status(child) for child in group(2, member)] == [0, 0]


@pytest.mark.parametrize("ranks, apart", [(2, 1), (3, 2)])
def test_a_folder_that_each_machine_has_for_itself_is_refused_by_all(
    tmp_path, monkeypatch, ranks, apart
):
    """A relative path in two working folders stands for two machines."""
    monkeypatch.setattr(distributed, "VISIBLE_SECONDS", 0.5)
    for rank in range(ranks):
        (tmp_path / str(rank) / "run").mkdir(parents=True)

    def member() -> int:
        rank = distributed.rank()
        os.chdir(tmp_path / str(rank if rank == apart else 0))
        RunFolder("run")
        return 0

    status, told = spoken(member, ranks=ranks)
    assert "--output_dir run: process" in told and f"process {apart} on " in told
    assert 0 not in status and not list((tmp_path / "0" / "run").glob(".seen*"))


def test_pretraining_says_so_in_one_sentence(tmp_path, monkeypatch):
    from noted_training import write_radiographs

    monkeypatch.setattr(distributed, "VISIBLE_SECONDS", 0.5)
    radiographs = write_radiographs(tmp_path / "radiographs")

    def member() -> int:
        here = tmp_path / str(distributed.rank() or os.environ["RANK"])
        here.mkdir()
        os.chdir(here)
        return pretraining(radiographs, "run")()

    status, told = spoken(member, ranks=2)
    assert (
        status == [2, 2]
        and "use a folder that all machines share" in told
        and "Traceback" not in told
    )


def test_one_process_needs_nothing(tmp_path):
    distributed.require_shared(tmp_path / "nowhere")
