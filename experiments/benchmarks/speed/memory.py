"""Peak memory of a piece of work, on a GPU or in this process."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Highest memory since it was made, above what was in use then.

    On CUDA: what PyTorch allocated. On Linux: the process' resident memory; the kernel's own
    high-water mark, set back first. Elsewhere ``ru_maxrss``, which cannot be set back: work that
    stays below an earlier peak counts as 0.

    Args:
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.baseline = torch.cuda.memory_allocated()
            return
        with contextlib.suppress(OSError):  # then the mark so far is the baseline
            Path("/proc/self/clear_refs").write_text("5")
        self.baseline = _high_water()

    def bytes(self) -> int:
        """Bytes above the baseline."""
        if self._cuda:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.baseline
        return max(_high_water() - self.baseline, 0)


def _high_water() -> int:
    # Not ru_maxrss where there is a choice: a new process begins with its parent's.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
