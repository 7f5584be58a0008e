"""A CUDA graph on the CPU: records the operations of a step and replays them in place."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

READS = ("_local_scalar_dense", "is_nonzero", "aten.equal", "aten.nonzero")
"""Operations that hand a number to Python: recording a CUDA graph fails at them."""


def tensors_in(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class _Recording(TorchDispatchMode):
    """Notes every operation with its very arguments; undoes what they did to other tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.before = {}  # of tensors that were there before, and that an operation wrote to
        self.own = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(name in str(function) for name in READS):
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        schema = function._schema.arguments
        for argument, value in [
            *zip(schema, args, strict=False),
            *((argument, kwargs[argument.name]) for argument in schema if argument.name in kwargs),
        ]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors_in(value):
                    if storage(tensor) not in self.own:
                        self.before.setdefault(id(tensor), (tensor, tensor.detach().clone()))
        out = function(*args, **kwargs)
        given = {storage(tensor) for tensor in tensors_in((args, kwargs))}
        fresh = [storage(tensor) not in given for tensor in tensors_in(out)]
        self.own |= {storage(tensor) for tensor in tensors_in(out)} - given
        self.operations.append((function, args, kwargs, out, fresh))
        return out


def record(work):
    """Like ``record_cuda_graph``: nothing is done while recording, all of it at each replay.

    A replay repeats the operations on the very tensors that were recorded. A Python number that
    went into one, or a tensor that took another's place, stays what it was.
    """
    random = torch.get_rng_state()
    with _Recording() as recording:
        work()
    with torch.no_grad():
        for tensor, value in recording.before.values():
            tensor.copy_(value)
    torch.set_rng_state(random)

    @torch.no_grad()
    def replay():
        for function, args, kwargs, out, fresh in recording.operations:
            again = function(*args, **kwargs)
            for old, new, is_fresh in zip(tensors_in(out), tensors_in(again), fresh, strict=True):
                if is_fresh:
                    old.copy_(new)

    replay.operations = [str(function) for function, *_ in recording.operations]
    return replay


# The recorder itself


def test_recording_does_nothing_and_replays_do_all():
    state, given = torch.zeros(2), torch.ones(2)
    replay = record(lambda: state.add_(given * 2))
    assert state.tolist() == [0, 0]
    replay()
    given.fill_(3)
    replay()
    assert state.tolist() == [8, 8]


def test_a_python_number_is_repeated():
    state, number = torch.zeros(()), [1.0]
    replay = record(lambda: state.add_(number[0]))
    number[0] = 5.0
    replay()
    replay()
    assert state.item() == 2


def test_an_exchanged_tensor_is_not_seen():
    box = [torch.zeros(())]
    replay = record(lambda: box.append(box[-1] + 1))
    replay()
    replay()
    assert len(box) == 2


def test_random_numbers_differ_from_replay_to_replay():
    state = torch.zeros(3)
    replay = record(state.normal_)
    replay()
    first = state.clone()
    replay()
    assert not torch.equal(first, state)


def test_reading_a_number_is_refused():
    with pytest.raises(RuntimeError, match="not permitted"):
        record(lambda: torch.ones(()).item())
