"""Read the plain data in a pickle without running anything.

A pickle is a program. This is no interpreter of it: it knows the few instructions that plain data
is made of, and instead of calling what a pickle names, it looks the name up in a short list and
keeps the data. Anything else is an error. The files that need it are boilr's ``config.pkl`` and
``log.pkl``, and the labels in multiobject's ``.npz`` files.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.files import DamagedFileError

__all__ = ["Array", "Record", "read_pickle"]

MAX_BYTES = 64 << 20
MAX_INSTRUCTIONS = 20_000_000
"""Labels of 100 000 images have some four million."""

_SUMMARIES = "boilr.utils.summarize"
_RECORDS = {
    ("argparse", "Namespace"),
    (_SUMMARIES, "History"),
    (_SUMMARIES, "SummarizerCollection"),
    (_SUMMARIES, "HistorySummarizer"),
}
_DTYPE = re.compile(r"[biufSU][0-9]{1,4}|O8|O", re.ASCII)
_KEYS = (str, int, float, bool, type(None))
_MARK = object()


class Record:
    """What a pickle says is an object of some class: the class's name, and the fields."""

    __slots__ = ("fields", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fields: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        """Take the fields."""
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise DamagedFileError(f"the fields of a {self.kind} have no names")
        self.fields = state


class Array:
    """A numpy array: :attr:`values`, or :attr:`items` where it holds Python objects."""

    __slots__ = ("items", "values")

    def __init__(self) -> None:
        self.values: NDArray[Any] | None = None
        self.items: list[Any] | None = None

    def build(self, state: Any) -> None:
        """Take shape, type and content, which must fit each other."""
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not _is_shape(shape):
            raise DamagedFileError("an array has no type or no shape")
        size = math.prod(shape)
        if dtype.code.startswith("O"):
            if not isinstance(content, list) or len(content) != size:
                raise DamagedFileError(f"an array of shape {shape} does not hold as many objects")
            self.items = content
            return
        kind = dtype.resolve()
        if not isinstance(content, bytes) or len(content) != size * kind.itemsize:
            raise DamagedFileError(f"an array of shape {shape} does not hold as much")
        flat = np.frombuffer(content, kind) if size else np.empty(0, kind)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


class _DType:
    """A numpy type: a letter and a size."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if type(code) is not str:
            # Nor is it printed: tuples of one tuple twice, and so on, are long to print.
            raise DamagedFileError(f"a {type(code).__name__} names a type")
        if not _DTYPE.fullmatch(code):
            raise DamagedFileError(f"{code[:100]!r} is no type of plain numbers or text")
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        """Take the byte order; there may be no fields."""
        _, order, *parts = state
        if order not in ("<", ">", "|", "=") or parts[:3] != [None, None, None]:
            raise DamagedFileError("a type has parts of its own")
        self.order = order

    def resolve(self) -> np.dtype[Any]:
        """The type itself."""
        kind = np.dtype(self.order + self.code)
        if not kind.itemsize:
            raise DamagedFileError("a type has no size")
        return kind


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, _DType) or not isinstance(content, bytes):
        raise DamagedFileError("a number has no type or no content")
    kind = dtype.resolve()
    if len(content) != kind.itemsize:
        raise DamagedFileError("a number does not have its type's size")
    return np.frombuffer(content, kind)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise DamagedFileError("bytes are written in a strange way")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # how the second protocol writes them


def _array(*_: Any) -> Array:
    return Array()  # its shape and content come with BUILD: nothing is allocated before


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _CALLS[_module, "_reconstruct"] = _array
    _CALLS[_module, "scalar"] = _scalar
_NAMES = {("numpy", "ndarray")}  # named as an argument only


def read_pickle(content: bytes, name: str) -> Any:
    """The data in a pickle: numbers, text, lists, tuples, dicts, :class:`Array`, :class:`Record`.

    Args:
        content: of the pickle.
        name: of its file, for messages.

    Raises:
        DamagedFileError: if it is no pickle, or holds anything else, or is too large.
    """
    if len(content) > MAX_BYTES:
        raise DamagedFileError(f"{name} is a pickle of {len(content)} bytes: too large.")
    try:
        return _Reader().read(content)
    except DamagedFileError as error:
        raise DamagedFileError(f"{name} is not the plain data it should be: {error}.") from error
    except (
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{name} is a damaged pickle: {reason}.") from error


class _Reader:
    """A stack, a memo, and a method for each instruction that plain data needs."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            name = opcode.name
            if count > MAX_INSTRUCTIONS:
                raise DamagedFileError("it has too many instructions")
            if name == "STOP":
                (result,) = self.stack
                return result
            if name in _PUSHES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif handle := getattr(self, f"on_{name.lower()}", None):
                handle(argument)
            elif name not in ("PROTO", "FRAME"):
                raise DamagedFileError(f"it uses {name}")
        raise DamagedFileError("it has no end")

    def to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise DamagedFileError("a mark is missing")

    def pop(self, number: int) -> list[Any]:
        if len(self.stack) < number:
            raise DamagedFileError("it takes what it never put")
        items = self.stack[len(self.stack) - number :]
        del self.stack[len(self.stack) - number :]
        return items

    def on_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def on_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def on_tuple1(self, _: Any) -> None:
        self.stack.append(tuple(self.pop(1)))

    def on_tuple2(self, _: Any) -> None:
        self.stack.append(tuple(self.pop(2)))

    def on_tuple3(self, _: Any) -> None:
        self.stack.append(tuple(self.pop(3)))

    def on_append(self, _: Any) -> None:
        self.extend(self.pop(1))

    def on_appends(self, _: Any) -> None:
        self.extend(self.to_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise DamagedFileError("it appends to what is no list")
        self.stack[-1].extend(items)

    def on_setitem(self, _: Any) -> None:
        self.update(self.pop(2))

    def on_setitems(self, _: Any) -> None:
        self.update(self.to_mark())

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise DamagedFileError("it sets items of what is no dict")
        # A key of nested tuples would be hashed without end.
        if not all(type(key) in _KEYS for key in items[::2]):
            raise DamagedFileError("a key is neither text nor number")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def on_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def on_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    on_long_binput = on_binput

    def on_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    on_long_binget = on_binget

    def on_global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.push_global(module, name)

    def on_stack_global(self, _: Any) -> None:
        self.push_global(*self.pop(2))

    def push_global(self, module: Any, name: Any) -> None:
        # Tuples of one tuple twice, and so on, would be hashed and printed without end.
        if type(module) is not str or type(name) is not str:
            raise DamagedFileError("it asks for a name that is no text")
        for table in (_RECORDS, _CALLS, _NAMES):
            if (module, name) in table:
                self.stack.append(_Global(module, name))
                return
        raise DamagedFileError(f"it asks for {module}.{name}, which is not allowed"[:200])

    def on_newobj(self, _: Any) -> None:
        made, arguments = self.pop(2)
        if not isinstance(made, _Global) or made.key not in _RECORDS or arguments != ():
            raise DamagedFileError("it makes an object of no class that is allowed")
        self.stack.append(Record(made.name))

    def on_reduce(self, _: Any) -> None:
        called, arguments = self.pop(2)
        if not isinstance(called, _Global) or type(arguments) is not tuple:
            raise DamagedFileError("it calls what is no function")
        if called.key in _RECORDS and not arguments:
            self.stack.append(Record(called.name))
        elif called.key in _CALLS:
            self.stack.append(_CALLS[called.key](*arguments))
        else:
            raise DamagedFileError(f"it calls {called.name}")

    def on_build(self, _: Any) -> None:
        (state,) = self.pop(1)
        if not isinstance(self.stack[-1], Record | Array | _DType):
            raise DamagedFileError("it fills what is no object")
        self.stack[-1].build(state)


class _Global:
    """A name that a pickle asked for and may have."""

    __slots__ = ("key", "name")

    def __init__(self, module: str, name: str) -> None:
        self.key, self.name = (module, name), name


_PUSHES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _is_shape(shape: Any) -> bool:
    return (
        type(shape) is tuple
        and len(shape) <= 8
        and all(type(length) is int and 0 <= length < 1 << 63 for length in shape)
    )
