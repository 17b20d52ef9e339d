import pytest
import torch

from agent_finetune.errors import ModelError
from agent_finetune.models import hardware

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """Pretend a number of GPUs; only what torch says of them is read here, nothing is computed."""

    def pretend(count, current=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    return pretend


def test_auto_is_the_cpu_where_there_is_no_gpu(gpus):
    gpus(0)
    assert hardware.pick_device("auto") == CPU


def test_auto_and_cuda_are_the_current_gpu(gpus):
    gpus(2, current=1)
    assert str(hardware.pick_device("auto")) == str(hardware.pick_device("cuda")) == "cuda:1"


def test_the_cpu_can_be_asked_for_beside_a_gpu(gpus):
    gpus(1)
    assert hardware.pick_device("cpu") == CPU


def test_a_gpu_is_chosen_by_number(gpus):
    gpus(3)
    assert str(hardware.pick_device("cuda:2")) == "cuda:2"


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_a_gpu_where_there_is_none_is_refused(gpus, wanted):
    gpus(0)
    with pytest.raises(ModelError, match=rf"'{wanted}', this machine has no GPU.*: auto, cpu$"):
        hardware.pick_device(wanted)


@pytest.mark.parametrize("wanted", ["cuda:7", "cuda:x", "cuda:-1", "cuda:"])
def test_a_gpu_that_does_not_exist_is_refused_with_those_that_do(gpus, wanted):
    gpus(2)
    with pytest.raises(
        ModelError, match=r"has 2 GPUs; legal here: auto, cpu, cuda, cuda:0, cuda:1"
    ):
        hardware.pick_device(wanted)


def test_a_dtype_that_is_named_is_taken():
    assert hardware.pick_dtype("float16", CPU) is torch.float16
    assert hardware.pick_dtype("bfloat16", CPU) is torch.bfloat16
    assert hardware.pick_dtype("float32", CPU) is torch.float32


@pytest.mark.parametrize(
    ("flags", "good"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx512f avx2", False)],
)
def test_a_cpu_is_good_at_bf16_when_it_has_the_instructions(tmp_path, flags, good):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert hardware.cpu_is_good_at_bf16(tmp_path / "cpuinfo") is good


def test_a_system_that_does_not_list_its_cpu_flags_counts_as_not_good(tmp_path):
    assert not hardware.cpu_is_good_at_bf16(tmp_path / "nowhere")
    (tmp_path / "cpuinfo").write_text("Features : fp asimd bf16\n")
    assert not hardware.cpu_is_good_at_bf16(tmp_path / "cpuinfo")


def test_auto_agrees_with_torch_on_this_cpu():
    if "get_capabilities" not in vars(torch.cpu):
        pytest.skip("this torch does not list the CPU's capabilities")
    can = torch.cpu.get_capabilities()
    good = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    want = torch.bfloat16 if good else torch.float32
    assert hardware.pick_dtype("auto", CPU) is want


@pytest.mark.gpu
def test_auto_on_a_gpu_is_bfloat16_from_ampere_on():
    device = hardware.pick_device("auto")
    good = torch.cuda.get_device_capability(device) >= (8, 0)
    want = torch.bfloat16 if good else torch.float16
    assert hardware.pick_dtype("auto", device) is want


def test_attention_auto_leaves_the_choice_to_the_model():
    assert hardware.pick_attention("auto", CPU) is None
    assert hardware.pick_attention("eager", CPU) == "eager"


def test_flash_attention_needs_a_gpu():
    with pytest.raises(ModelError, match="'flash_attention_2' needs a GPU, the device is cpu"):
        hardware.pick_attention("flash_attention_2", CPU)


def test_flash_attention_needs_its_package(monkeypatch):
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install flash-attn"):
        hardware.pick_attention("flash_attention_2", torch.device("cuda:0"))
