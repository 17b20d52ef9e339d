from pathlib import Path

import pytest

KERNEL = Path(__file__).parent / "shared"


def pytest_collection_modifyitems(items):
    measured_by_the_kernels_quick_tests(items)
    skipped_without_a_gpu(items)
    longest_first(items)


def measured_by_the_kernels_quick_tests(items):
    """Coverage makes Python take half as long again, and the kernel's is what is asked for."""
    for item in items:
        if KERNEL not in item.path.parents or item.get_closest_marker("real"):
            item.add_marker(pytest.mark.no_cover)


def skipped_without_a_gpu(items):
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no GPU"))


def longest_first(items):
    """Files with a real model begin, so that the processes end at about the same time."""
    real = {item.path for item in items if item.get_closest_marker("real")}
    items.sort(key=lambda item: item.path not in real)
