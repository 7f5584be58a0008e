"""The same bits each time, also on a GPU."""

import os

import torch


def make_deterministic() -> None:
    """Have PyTorch use deterministic algorithms only, and raise where it has none.

    To be called before the first use of CUDA. Costs some speed; on a CPU nothing changes.
    """
    # cuBLAS wants a workspace of a fixed size: PyTorch's notes on reproducibility.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
