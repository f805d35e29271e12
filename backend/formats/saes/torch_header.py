"""Tensors' names, dtypes and shapes in a file of `torch.save`, told from the pickle's opcodes; nothing is unpickled.

A zip holds `<name>/data.pkl` and the storages `<name>/data/<key>`. The pickle's opcodes are walked by a little machine
that knows dicts, lists, tuples, numbers and texts, and for whom the few functions torch needs are names: rebuilding a
tensor notes its dtype, shape and place, and anything else is refused by name.
Sources: pickletools' description of opcodes; torch/serialization.py and torch/_utils.py of PyTorch 2.
"""

import json
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backend import errors
from backend.formats.saes import json_file, tensor, zip_directory

MAX_PICKLE_BYTES = 16 << 20
MAX_OPCODES = 1_000_000
MAX_DEPTH = 4
MAX_VALUES = 10_000
"""Of all dicts together, each counted wherever it stands: a pickle says in a few bytes that one stands in many places."""
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_DICTS = {"collections OrderedDict"}
_TENSORS = {"torch._utils _rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils _rebuild_parameter"}
_KNOWN = _DICTS | _TENSORS | _PARAMETERS | {f"torch {name}" for name in _STORAGES}
_CONSTANTS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING",
}  # fmt: skip
_VALUES: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    n: int


class _View(NamedTuple):
    """A tensor as a view of a storage."""

    storage: _Storage
    shape: tuple[int, ...]


class _BrokenError(Exception):
    pass


_MARK = object()


@dataclass(frozen=True, slots=True)
class Contents:
    """Of one file, by dotted name (`a.b` for `b` in the dict `a`)."""

    tensors: dict[str, tensor.Tensor]
    values: dict[str, object]
    """Numbers, texts and truth values."""


def read(path: Path) -> Contents:
    """What the file holds; raises `InvalidInputError`, naming what would be run where it holds more than tensors."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        raise errors.InvalidInputError(
            f"{path.name} is not a zip file, as torch.save has written since PyTorch 1.6.",
            hint="Load it where you trust it and save it again, best as safetensors.",
        )
    with zip_directory.opened(path) as (archive, members):
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise errors.InvalidInputError(f"{path.name} was not written by torch.save, or lists too many objects.")
        raw = archive.read(pickles[0])
        prefix = pickles[0].filename.removesuffix("data.pkl") + "data/"
        sizes = {m.filename.removeprefix(prefix): m.file_size for m in members if m.filename.startswith(prefix)}
    try:
        found = _Machine(path.name).run(raw)
        if not isinstance(found, dict):
            raise errors.InvalidInputError(f"{path.name} holds no dict of tensors (a state dict).")
        contents = Contents({}, {})
        for n, (name, value) in enumerate(_flat(found, "", 0)):
            if n >= MAX_VALUES:
                raise _BrokenError(f"more than {MAX_VALUES} values")
            if isinstance(value, _View):
                contents.tensors[name] = _checked(path.name, name, value, sizes)
            elif isinstance(value, bool | int | float | str):
                contents.values[name] = _plain(name, value)
        return contents
    except _BrokenError as error:
        raise errors.InvalidInputError(f"{path.name} is a broken pickle ({error}).", hint="Save it again.") from error


def _plain(name: str, value: float | str) -> float | str:
    """The value, if JSON can hold it."""
    try:
        json_file.check_texts([name, value])
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise _BrokenError(f"'{name[:80]}' is no usual number or text") from error
    return value


def _flat(found: dict[Any, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    if depth > MAX_DEPTH:
        raise _BrokenError("dicts nested too deeply")
    for key, value in found.items():
        if isinstance(value, dict):
            yield f"{prefix}{key}", None  # counted also where it is empty
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _checked(file: str, name: str, view: _View, sizes: dict[str, int]) -> tensor.Tensor:
    found = tensor.checked(file, name, view.storage.dtype, view.shape)
    storage = tensor.Tensor(file, view.storage.dtype, (view.storage.n,))
    if sizes.get(view.storage.key) != tensor.n_bytes(storage):
        raise errors.InvalidInputError(
            f"{file}: the data of '{name[:80]}' is missing or cut short.", hint="Copy it again."
        )
    if (tensor.n_bytes(found) or 0) > (tensor.n_bytes(storage) or 0):
        raise errors.InvalidInputError(
            f"{file}: '{name[:80]}' has more elements than are stored.", hint="Save it again."
        )
    return found


class _Machine:
    """A stack and a memo over symbols; runs nothing."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, raw: bytes) -> object:
        try:
            for n, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
                if n > MAX_OPCODES:
                    raise _BrokenError("too many objects")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
            raise _BrokenError(type(error).__name__) from error
        raise _BrokenError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._push(argument)
        elif name in _VALUES:
            self._push(_VALUES[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self._memo[int(argument)])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise _BrokenError(f"{name}, which weights do not need")
            action(argument) if name == "GLOBAL" else action()

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise _BrokenError("a mark where a value should be")
        return value

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1  # only what is taken away is looked at: the stack below may be long
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise _BrokenError("items without a mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _mark(self) -> None:
        self._push(_MARK)

    def _empty_dict(self) -> None:
        self._push({})

    def _empty_list(self) -> None:
        self._push([])

    def _empty_tuple(self) -> None:
        self._push(())

    def _tuple(self) -> None:
        self._push(tuple(self._since_mark()))

    def _tuple1(self) -> None:
        self._tuple_of(1)

    def _tuple2(self) -> None:
        self._tuple_of(2)

    def _tuple3(self) -> None:
        self._tuple_of(3)

    def _tuple_of(self, n: int) -> None:
        items = [self._pop() for _ in range(n)]
        self._push(tuple(items[::-1]))

    def _append(self) -> None:
        value = self._pop()
        self._list_on_top().append(value)

    def _appends(self) -> None:
        items = self._since_mark()
        self._list_on_top().extend(items)

    def _list_on_top(self) -> list[Any]:
        if not isinstance(self._stack[-1], list):
            raise _BrokenError("items for what is no list")
        found: list[Any] = self._stack[-1]
        return found

    def _setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise _BrokenError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int) or key in target:
                raise _BrokenError("a key that is no text, or occurs twice")
            target[key] = value

    def _global(self, name: str) -> None:
        if name not in _KNOWN:
            raise errors.InvalidInputError(
                f"{self._file} would run code when opened: {name.replace(' ', '.')[:120]}.",
                hint="Save the weights alone (a state dict), best as safetensors.",
            )
        self._push(_Global(name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(f"{module} {name}")

    def _binpersid(self) -> None:
        found = self._pop()
        match found:
            case ("storage", _Global(kind), str(key), str(_), int(n)) if kind.removeprefix("torch ") in _STORAGES:
                self._push(_Storage(_STORAGES[kind.removeprefix("torch ")], key, n))
            case _:
                raise _BrokenError("a reference to what is no storage")

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise _BrokenError("a call of what is no function")
        if function.name in _DICTS and arguments in ((), ([],)):
            self._push({})
        elif function.name in _TENSORS and len(arguments) >= 4 and isinstance(arguments[0], _Storage):
            self._push(_view(arguments[0], *arguments[1:4]))
        elif function.name in _PARAMETERS and arguments and isinstance(arguments[0], _View):
            self._push(arguments[0])
        else:
            raise _BrokenError(f"a call of {function.name} with other arguments than torch gives")

    def _build(self) -> None:
        """State put onto an object: torch gives state dicts a `_metadata`, which says nothing of weights."""
        self._pop()
        if not isinstance(self._stack[-1], dict):
            raise _BrokenError("state for what is no dict")


def _view(storage: _Storage, offset: object, shape: object, stride: object) -> _View:
    """A view that stays inside its storage."""
    if not isinstance(offset, int) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise _BrokenError("a tensor with an impossible place")
    if len(shape) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *stride)):
        raise _BrokenError("a tensor with an impossible place")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.n:
        raise _BrokenError("a tensor that reaches beyond its data")
    return _View(storage, shape)
