"""A GPU that isn't there: the CPU does what a program asks of it, and what a GPU would refuse raises.

Tensors that a program puts on ``cuda`` stay the CPU's, but are marked. They say that they are on ``cuda:0``, so the
program takes the ways that it takes on a GPU. An operation on a marked and an unmarked tensor raises; so does NumPy's
view of a marked one. A pass that is recorded as a CUDA graph is played back operation by operation, on the same memory:
numbers that were no tensors when it was recorded never change, as on a GPU.

What can't be told in this way: how a GPU rounds, how fast it is, what its kernels lack, and whether Python reads its
results before they are there.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
COPY = aten.copy_.default
"""The one operation from device to device."""
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
"""Their indices may be on the host."""
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
"""The host must know the result, or its size, to go on."""


class DeviceError(RuntimeError):
    """What a GPU would refuse."""


class Recorded(NamedTuple):
    """An operation that can be done again."""

    operation: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: Any


_of_card: dict[int, StorageWeakRef] = {}
"""The card's memory, by an address that nothing else can have while there is a reference. It is never forgotten: what
the package caches outlives a test."""


def on_card(tensor: Tensor) -> bool:
    """Whether a tensor is marked."""
    return tensor.untyped_storage()._cdata in _of_card


class Operations(TorchDispatchMode):
    """Sees every operation, those of backward passes too: results are where inputs are, which must be on one device."""

    def __init__(self) -> None:
        super().__init__()
        self.makes_on_card = False
        """Whether tensors that are made of nothing are the card's."""
        self.recording: list[Recorded] | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled, and importing the compiler takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, options = _tensors((args, kwargs)), kwargs or {}
        if not any(map(on_card, given)) and (given or not self.makes_on_card):
            return func(*args, **options)
        if func is not COPY:
            _refuse_two_devices(func, args, given)
        results = func(*args, **options)
        if func is not COPY:
            _mark(results)
        if self.recording is not None:
            _refuse_in_graph(func, args, given)
            self.recording.append(Recorded(func, *tree_map_only(Tensor, _as_recorded, (args, options)), results))
        return results


class Calls(TorchFunctionMode):
    """Sees every call from Python, and answers for the card where a device is named."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None and on_card(own):
            if func in ANSWERS:
                return ANSWERS[func]
            if name in ("numpy", "__array__"):
                raise DeviceError("NumPy can't see what is on the card")
        if name == "pin_memory":
            return own
        if name in ("cpu", "cuda"):
            func, name, args = Tensor.to, "to", (own, HOST if name == "cpu" else CARD)
        wanted = _wanted(name, args, options)
        _refuse_generator(options.get("generator"), wanted or (CARD if own is not None and on_card(own) else HOST))
        options.pop("pin_memory", None)
        if wanted is None or wanted.type == "meta":
            return func(*args, **options)
        if "device" in options:
            options["device"] = HOST
        args = [HOST if name == "to" and _is_device(one) else one for one in args]
        with self._making(on_card=wanted == CARD):
            return self._moved(func(*args, **options), on_card=wanted == CARD)

    @contextmanager
    def _making(self, *, on_card: bool) -> Iterator[None]:
        before, self.operations.makes_on_card = self.operations.makes_on_card, on_card
        try:
            yield
        finally:
            self.operations.makes_on_card = before

    def _moved(self, results: Any, *, on_card: bool) -> Any:
        """What a call returned, brought to where it was wanted."""

        def move(tensor: Tensor) -> Tensor:
            if (tensor.untyped_storage()._cdata in _of_card) == on_card:
                return tensor
            if self.operations.recording is not None:
                raise DeviceError("nothing can be moved to or from a card while a CUDA graph is recorded")
            moved = torch.empty_like(tensor).copy_(tensor)  # made where _making says
            return _mark(moved) if on_card else _unmark(moved)

        return tree_map_only(Tensor, move, results)


class CardGenerator(torch.Generator):
    """Random numbers on the device that it was made for."""

    def __new__(cls, device: Any = HOST) -> "CardGenerator":
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = HOST) -> None:
        self.place = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.place


class CardAccelerator(Accelerator):
    """One process, with a card unless it shall do without."""

    place = HOST

    def __init__(self, *, cpu: bool, mixed_precision: str) -> None:
        super().__init__(cpu=True, mixed_precision=mixed_precision)
        self.place = HOST if cpu else CARD

    @property
    def device(self) -> torch.device:
        return self.place


class Graph:
    """What was done while it was recorded, to be done again on the same memory."""

    __class__ = torch.cuda.CUDAGraph  # what annotations ask for

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []

    def replay(self) -> None:
        with torch.no_grad(), torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            for operation, arguments, options, results in self.recorded:
                again = operation(*arguments, **options)
                for old, new in zip(_tensors(results), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Stream:
    """There is one."""

    def wait_stream(self, other: "Stream") -> None:
        pass


class Event:
    """All work is done at once."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


ANSWERS = {Tensor.device.__get__: CARD, Tensor.is_cuda.__get__: True, Tensor.is_cpu.__get__: False}  # type: ignore[attr-defined]
"""What tensors on the card say when they are asked."""


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """For a while there is a GPU."""
    operations = Operations()

    @contextmanager
    def recorded(graph: Graph, *, capture_error_mode: str) -> Iterator[None]:
        operations.recording = graph.recorded
        try:
            yield
        finally:
            operations.recording = None

    of_cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda: True,
        "is_current_stream_capturing": lambda: operations.recording is not None,
        "Event": Event,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Graph,
        "graph": recorded,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, one in of_cuda.items():
            patch.setattr(torch.cuda, name, one)
        patch.setattr(torch, "Generator", CardGenerator)
        patch.setattr(torch, "autocast", functools.partial(_autocast, torch.autocast))
        patch.setattr("audiovae.training.loop.Accelerator", CardAccelerator)
        with operations, Calls(operations):
            yield


def _tensors(structure: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]


def _mark(results: Any) -> Any:
    for tensor in _tensors(results):
        storage = tensor.untyped_storage()
        _of_card[storage._cdata] = StorageWeakRef(storage)
    return results


def _unmark(tensor: Tensor) -> Tensor:
    _of_card.pop(tensor.untyped_storage()._cdata, None)
    return tensor


def _as_recorded(tensor: Tensor) -> Tensor:
    """Itself if it is the card's; of the host's, a graph holds the number that it was."""
    return tensor if on_card(tensor) else tensor.clone()


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or value in ("cpu", "cuda")


def _wanted(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for; None if for none."""
    if options.get("device") is not None:
        wanted = torch.device(options["device"])
    elif name == "to":
        named = [CARD if on_card(one) else one.device for one in args[1:] if isinstance(one, Tensor)]
        named += [torch.device(one) for one in args[1:] if isinstance(one, str | torch.device)]
        wanted = named[0] if named else None
    else:
        return None
    return CARD if wanted is not None and wanted.type == "cuda" else wanted


def _autocast(autocast: Callable[..., Any], device_type: str, **options: Any) -> Any:
    """The CPU's, for any device."""
    return autocast("cpu", **options)


def _refuse_two_devices(func: Any, args: tuple[Any, ...], given: list[Tensor]) -> None:
    """Numbers, which are tensors without a dimension, may come from the host, but not change there."""
    given = [args[0], *_tensors(args[2:])] if func in INDEXED else given
    elsewhere = [one for one in given if not on_card(one)]
    if any(one.ndim for one in elsewhere) or (func._schema.is_mutable and any(one is args[0] for one in elsewhere)):
        places = ", ".join(f"{list(one.shape)} on the {'card' if on_card(one) else 'host'}" for one in given)
        raise DeviceError(f"{func}: not on one device: {places}")


def _refuse_generator(generator: torch.Generator | None, wanted: torch.device) -> None:
    if generator is not None and generator.device.type != wanted.type:
        raise DeviceError(f"a generator of the {generator.device.type} can't draw on the {wanted.type}")


def _refuse_in_graph(func: Any, args: tuple[Any, ...], given: list[Tensor]) -> None:
    """Chance, too: of random numbers a graph holds only those of torch's own generator, and runs have theirs."""
    by_mask = func in INDEXED and any(one.dtype == torch.bool for one in _tensors(args[1]))
    moves = func is COPY and not all(map(on_card, given))
    draws = torch.Tag.nondeterministic_seeded in func.tags
    if func in WAITING or by_mask or moves or draws:
        raise DeviceError(f"{func}: can't be part of a CUDA graph")
