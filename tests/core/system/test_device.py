"""Device and precision: what is asked for, or a sentence."""

import pytest
import torch

from core.system import device as module
from core.system.device import (
    autocast,
    choose_device,
    prepare_device,
    resolve_precision,
    use_explicit_attention,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count: int, bf16: bool = True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        native = lambda including_emulation=True: bf16 or including_emulation  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", native)

    return pretend


def test_auto_is_this_processes_gpu_or_the_cpu(gpus, monkeypatch):
    gpus(0)
    assert choose_device("auto") == CPU == choose_device("cpu")
    gpus(4)
    assert choose_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 3)
    assert choose_device("cuda:1") == torch.device("cuda", 1) and choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize("rank", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_a_task_that_is_shown_its_own_gpu_alone_takes_it(gpus, monkeypatch, name, rank):
    """`srun --gpus-per-task=1`: the GPU of every task has the number 0."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv(rank, "3")
    gpus(1)
    assert choose_device(name) == torch.device("cuda", 0)
    gpus(8)
    assert choose_device(name) == torch.device("cuda", 3)
    gpus(0)
    assert choose_device("auto") == CPU


def test_the_rank_of_the_launcher_wins_over_slurms(gpus, monkeypatch):
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    gpus(4)
    assert choose_device() == torch.device("cuda", 2)


@pytest.mark.parametrize("count, processes, rank", [(1, 4, 3), (2, 4, 2), (3, 0, 5)])
def test_more_processes_than_gpus_are_refused_with_a_number_that_works(
    gpus, monkeypatch, count, processes, rank
):
    """torchrun shows all GPUs to all of its processes: none has one to itself beyond their number."""
    gpus(count)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(
        ValueError,
        match=f"process {rank} .* sees {count}; start at most {count} .*--nproc_per_node ",
    ):
        choose_device("auto")
    for possible in range(count):
        monkeypatch.setenv("LOCAL_RANK", str(possible))
        assert choose_device("auto") == torch.device("cuda", possible)


@pytest.mark.parametrize("count, name", [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_gpu_that_is_not_there(gpus, count, name):
    gpus(count)
    with pytest.raises(
        ValueError, match=f"--device '{name}': this machine shows {count} CUDA device"
    ):
        choose_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "meta", "", "cpu:-2"])
def test_other_words_are_refused_with_the_choices(name):
    with pytest.raises(ValueError, match="choose auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_precision(gpus, monkeypatch):
    gpus(1)
    assert resolve_precision("auto", GPU) == "bf16"
    gpus(1, bf16=False)
    assert resolve_precision("auto", GPU) == "fp16"
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(module, "_cpu_has_bf16", lambda native=native: native)
        assert resolve_precision("auto", CPU) == expected
    for name in ("fp32", "bf16", "fp16"):
        assert resolve_precision(name, GPU) == name
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU choose bf16 or fp32"):
        resolve_precision("fp16", CPU)
    with pytest.raises(ValueError, match="'half': choose auto, fp32, tf32, bf16, fp16"):
        resolve_precision("half", CPU)


@pytest.mark.parametrize("native", [True, False])
def test_bf16_that_is_slow_on_this_processor_is_noted_once(monkeypatch, capsys, native):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: native)
    module._note_slow_bf16.cache_clear()
    for precision in ("auto", "fp32", "bf16", "bf16"):
        resolve_precision(precision, CPU)
    assert capsys.readouterr().err.count("--precision auto takes fp32") == (not native)


def test_autocast_multiplies_in_the_precision_asked_for():
    a = torch.randn(8, 8)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_the_cpu_library_is_touched_only_where_it_keeps_float32(monkeypatch):
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    try:
        prepare_device(CPU, strict_fp32=True)
        assert matmul.fp32_precision == before
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
        prepare_device(CPU)
        assert matmul.fp32_precision == before
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        prepare_device(CPU)
        assert matmul.fp32_precision == ("bf16" if torch.backends.mkldnn.is_available() else before)
    finally:
        matmul.fp32_precision = before


def test_the_fast_cpu_path_is_float32():
    if torch.cpu._is_amx_tile_supported():
        pytest.skip("left alone on this CPU")
    matmul = torch.backends.mkldnn.matmul
    before, generator = matmul.fp32_precision, torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    try:
        prepare_device(CPU)
        assert (
            (a @ b).double() - exact
        ).abs().max() / exact.abs().max() < 1e-5  # bf16 would be 1e-3
    finally:
        matmul.fp32_precision = before


@pytest.fixture
def tf32():
    """(products, convolutions): whether torch computes float32 in TF32 on GPUs; restored afterwards.

    The precision of CPUs, which other tests set, is taken back: with it, torch refuses to tell that of GPUs.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    cpu = getattr(torch.backends.mkldnn, "matmul", None)
    precision = getattr(cpu, "fp32_precision", None)
    if precision is not None:
        cpu.fp32_precision = "none"
    yield lambda: tuple(switch.allow_tf32 for switch in switches)
    for switch, value in zip(switches, before):
        switch.allow_tf32 = value
    if precision is not None:
        cpu.fp32_precision = precision


def test_what_float32_means_on_a_gpu(gpus, monkeypatch, tf32):
    gpus(1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    prepare_device(GPU)
    assert tf32() == (False, False)
    autocast(GPU, "tf32")
    assert tf32() == (True, True)
    for precision in ("fp32", "bf16", "fp16", "auto"):
        autocast(GPU, "tf32")
        autocast(GPU, precision)
        assert tf32() == (False, False), precision
    assert torch.get_float32_matmul_precision() == "highest"  # torch.compile asks for it


def test_the_cpu_leaves_the_gpus_alone(tf32):
    before = tf32()
    with autocast(CPU, "fp32"):
        prepare_device(CPU, strict_fp32=True)
    assert tf32() == before


@pytest.mark.parametrize("device, capability", [(CPU, (9, 0)), (GPU, (7, 5)), (GPU, (6, 1))])
def test_tf32_is_refused_where_there_is_none(gpus, monkeypatch, device, capability):
    gpus(1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with pytest.raises(
        ValueError, match="--precision tf32 needs a GPU with TF32 .*; choose fp32 or auto"
    ):
        resolve_precision("tf32", device)
    assert resolve_precision("fp32", device) == "fp32" and resolve_precision("auto", device)


def test_attention_kernel():
    from timm.models.vision_transformer import Block

    block, x = Block(32, 4).eval(), torch.randn(2, 5, 32)
    use_explicit_attention(block, GPU)
    assert block.attn.fused_attn is True
    fused = block(x)
    use_explicit_attention(block, CPU)
    assert block.attn.fused_attn is False
    torch.testing.assert_close(block(x), fused, rtol=1e-5, atol=1e-6)
