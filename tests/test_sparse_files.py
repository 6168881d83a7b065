"""Sparse files: exact, small, and safe to read whatever they hold.

Files are built and hashed here a second time, by hand, so that hostile ones can be made whole.
"""

import hashlib
import json
import random
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prunella import Unsaved, UsageError
from prunella.bitmask import Coded, bound_bytes, decode, encode, ideal_bytes, pack, unpack
from prunella.runtime import files
from prunella.runtime.files import read, sizes, write

FLOATS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
SPECIAL = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 1e-45, 6e-8, 1e-40, 1.0)


def patterns(dtype: torch.dtype, shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    """Any bit patterns at all, signalling NaN and denormals among them, and zeros."""
    torch.manual_seed(seed)
    integer = FLOATS[dtype]
    limits = torch.iinfo(integer)
    bits = torch.randint(limits.min, limits.max, shape, dtype=integer)
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype).view(integer)
    chosen = special[torch.randint(len(special), shape)]
    bits = torch.where(torch.rand(shape) < 0.2, chosen, bits)
    return torch.where(torch.rand(shape) < density, bits, torch.zeros_like(bits)).view(dtype)


def same(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit: dtype, shape and content."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)


def contents(path: Path) -> dict[str, Tensor]:
    return {n: decode(t) if isinstance(t, Coded) else t for n, t in read(path)}


# Coding


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_tensor_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    source = random.Random(str(dtype))
    shapes = [(), (0,), (1,), (0, 5), (7, 1), (8, 8), (3, 5, 7), (33, 65)]
    shapes += [(source.randint(1, 40), source.randint(1, 40)) for _ in range(40)]
    for seed, shape in enumerate(shapes):
        density = source.choice([0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
        tensor = patterns(dtype, shape, density, seed)
        for given in (tensor, tensor.T if tensor.ndim == 2 else tensor):
            coded = encode(given)
            assert same(decode(coded), given)
            kept = given.contiguous().flatten().view(FLOATS[dtype]) != 0
            assert coded.values.numel() == int(kept.sum())
            assert coded.bytes == -(-given.numel() // 8) + int(kept.sum()) * given.itemsize


def test_bits_are_lowest_first() -> None:
    for count in (0, 1, 7, 8, 9, 64, 1001):
        kept = torch.rand(count) < 0.3
        bits = pack(kept)
        assert np.array_equal(bits.numpy(), np.packbits(kept.numpy(), bitorder="little"))
        assert torch.equal(unpack(bits, count), kept)
    kept = torch.rand(6, 10) < 0.5
    assert torch.equal(unpack(pack(kept.T), 60), kept.T.flatten())


@pytest.mark.parametrize(
    ("shape", "bits", "values", "words"),
    [
        ((3, 3), torch.zeros(1, dtype=torch.uint8), torch.zeros(0), "no mask of 9"),
        ((3, 3), torch.zeros(2, dtype=torch.int8), torch.zeros(0), "no mask of 9"),
        ((3, 3), torch.zeros(1, 2, dtype=torch.uint8), torch.zeros(0), "no mask of 9"),
        ((3, 3), torch.tensor([255, 3]).byte(), torch.zeros(9), "beyond the 9"),
        ((3, 3), torch.tensor([255, 1]).byte(), torch.zeros(8), "keeps 9 weights"),
        ((3, 3), torch.tensor([255, 1]).byte(), torch.zeros(9).int(), "kept values"),
        ((3, 3), torch.tensor([255, 1]).byte(), torch.zeros(3, 3), "kept values"),
        ((-3, -3), torch.tensor([255, 1]).byte(), torch.zeros(9), "negative side"),
    ],
)
def test_a_coded_tensor_is_consistent(
    shape: tuple[int, ...], bits: Tensor, values: Tensor, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Coded(shape, bits, values)


def test_only_weights_are_coded() -> None:
    with pytest.raises(UsageError, match="int64 cannot be coded; convert it to float64"):
        encode(torch.ones(3, dtype=torch.int64))


def test_what_coding_takes_at_the_least() -> None:
    assert ideal_bytes(1000, 100, 32) == 125 + 400
    assert bound_bytes(1000, 100, 32) == pytest.approx(0.4689956 * 125 + 400)
    assert bound_bytes(1000, 0, 32) == bound_bytes(0, 0, 32) == 0
    assert bound_bytes(1000, 1000, 16) == 2000


# Files


def zoo() -> dict[str, Tensor]:
    """Tensors of all kinds, of which the first three, and the cube, are coded."""
    return {
        "layer.weight": patterns(torch.float32, (16, 24), 0.2, 1),
        "half": patterns(torch.bfloat16, (9, 13), 0.1, 2),
        "none": torch.zeros(5, 5, dtype=torch.float64),
        "dense": torch.full((4, 4), -0.0, dtype=torch.float16),
        "cube": torch.zeros(2, 3, 2),
        "bias": patterns(torch.float32, (5,), 0.5, 4),
        "ids": torch.arange(3),
        "mask": torch.tensor([[True, False], [False, False]]),
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 4),
        "small": torch.zeros(2, 2).to(torch.float8_e4m3fn),
        "größe": torch.ones(1, dtype=torch.uint16),
    }


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / files.FILE
    tensors = zoo()
    write(tensors, path)
    read_back = dict(read(path))
    coded = [name for name, tensor in read_back.items() if isinstance(tensor, Coded)]
    assert coded == list(sizes(path)) == ["layer.weight", "half", "none", "cube"]
    assert list(read_back) == list(tensors)
    back = contents(path)
    assert all(same(back[name], tensors[name]) for name in tensors)
    write(tensors, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", files.FILE]
    # It is a safetensors file like any other.
    assert same(load_file(path)["layer.weight.values"], encode(tensors["layer.weight"]).values)


def test_any_matrices_come_back(tmp_path: Path) -> None:
    source = random.Random(5)
    for seed in range(60):
        tensors = {
            f"m{n}": patterns(
                source.choice(list(FLOATS)),
                (source.randint(0, 20), source.randint(0, 20)),
                source.choice([0.0, 0.05, 0.5, 0.95, 1.0]),
                100 * seed + n,
            )
            for n in range(source.randint(0, 6))
        }
        write(tensors, tmp_path / "file")
        back = contents(tmp_path / "file")
        assert list(back) == list(tensors)
        assert all(same(back[name], tensors[name]) for name in tensors)


def test_views_and_shared_tensors(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(patterns(torch.float32, (20, 30), 0.9, 0))
    tensors = {"a": weight, "b": weight, "t": weight.T, "cut": weight[3:7, ::2], "all": weight}
    tensors["wide"] = torch.zeros(1).expand(4, 4)
    write(tensors, tmp_path / "file")
    back = contents(tmp_path / "file")
    assert all(same(back[name], tensors[name].detach()) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_is_hardly_larger_than_ideal(dtype: torch.dtype, tmp_path: Path) -> None:
    """Two layers of BERT-base's shapes at a third of its width, everything in the file counted."""
    torch.manual_seed(0)
    tensors = {}
    for layer in range(2):
        shapes = {"query": (256, 256), "key": (256, 256), "value": (256, 256)}
        shapes |= {"attention": (256, 256), "in": (1024, 256), "out": (256, 1024)}
        for name, shape in shapes.items():
            weight = torch.randn(shape).to(dtype).masked_fill(torch.rand(shape) > 0.1, 0)
            tensors[f"bert.encoder.layer.{layer}.{name}.dense.weight"] = weight
    path = tmp_path / files.FILE
    write(tensors, path)
    known = sizes(path)
    assert known.keys() == tensors.keys()
    for name, each in known.items():
        count, kept = tensors[name].numel(), int(tensors[name].count_nonzero())
        assert (each.count, each.kept) == (count, kept)
        assert each.bytes == each.ideal == ideal_bytes(count, kept, 8 * dtype.itemsize)
        assert each.bound == bound_bytes(count, kept, 8 * dtype.itemsize) < each.ideal
    assert path.stat().st_size <= 1.05 * sum(each.ideal for each in known.values())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.zeros(8, 8), "a.bits": torch.ones(1)}, "'a.bits' would be stored as 'a.bits'"),
        ({"a.values": torch.ones(1), "a": torch.zeros(8, 8)}, "'a' would be stored as 'a.values'"),
        ({"__metadata__": torch.ones(1)}, "'__metadata__'"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.zeros(2, device="meta")}, "on meta"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "sparse_coo"),
    ],
)
def test_what_cannot_be_stored(tensors: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        write(tensors, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write({"a": torch.ones(3)}, path)
    for error in (OSError("no space"), KeyboardInterrupt()):

        def fail(_: int, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", fail)
            with pytest.raises(Unsaved if isinstance(error, OSError) else KeyboardInterrupt):
                write({"a": torch.zeros(3)}, path)
    assert torch.equal(contents(path)["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]
    for folder in (tmp_path / "nowhere", path):
        with pytest.raises(Unsaved, match="could not be written"):
            write({}, folder / "file")


# Damaged and hostile files

Part = tuple[str, list[int], bytes]  # dtype, shape and bytes


def container(parts: dict[str, Part], metadata: dict[str, Any]) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, content) in parts.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def signed(text: str, **other: str) -> dict[str, str]:
    """Metadata with a correct hash."""
    known = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"format": "prunella-sparse", "version": "1", "tensors": text, "sha256": known} | other


def entry(dtype: str, shape: Any, coded: Any, *content: bytes) -> dict[str, Any]:
    """What the metadata says of a tensor, with a correct hash."""
    form = "coded" if coded else "plain"
    known = hashlib.sha256(f"{dtype} {shape} {form}\n".encode() + b"".join(content)).hexdigest()
    return {"dtype": dtype, "shape": shape, "coded": coded, "sha256": known}


VALUES = np.arange(1, 9, dtype=np.float32).tobytes()
MASK = bytes([0b10110010, 0b00000001, 0b11100000])  # 8 of 24 weights are kept
PARTS: dict[str, Part] = {
    "w.bits": ("U8", [3], MASK),
    "w.values": ("F32", [8], VALUES),
    "b": ("F32", [8], VALUES),
}
ENTRIES = {"w": entry("F32", [4, 6], True, MASK, VALUES), "b": entry("F32", [8], False, VALUES)}


def test_the_format_is_this_one(tmp_path: Path) -> None:
    """A file built by hand, of which the others below are distortions."""
    path = tmp_path / "file"
    path.write_bytes(container(PARTS, signed(json.dumps(ENTRIES))))
    back = contents(path)
    weight = np.zeros(24, dtype=np.float32)
    weight[np.unpackbits(np.frombuffer(MASK, np.uint8), bitorder="little") == 1] = range(1, 9)
    assert np.array_equal(back["w"].numpy(), weight.reshape(4, 6))
    assert np.array_equal(back["b"].numpy(), np.frombuffer(VALUES, np.float32))


def hostile() -> Iterator[tuple[str, bytes]]:
    """Files of consistent hashes, in which something else is wrong."""

    def weight(shape: Any, bits: bytes = MASK, values: bytes = VALUES, **other: Any) -> bytes:
        """The matrix alone, with the given parts, correctly hashed."""
        dtype = other.get("dtype", "F32")
        parts = {
            "w.bits": ("U8", other.get("bits_shape", [len(bits)]), bits),
            "w.values": (
                other.get("stored", dtype),
                other.get("values_shape", [len(values) // 4]),
                values,
            ),
        }
        told = entry(dtype, shape, other.get("coded", True), bits, values)
        return container(parts, signed(json.dumps({"w": told})))

    for shape in (
        [4, 7],  # a mask of another length
        [2**24, 2**24],
        [2**40, 2**40],
        [2**64, 2**64],
        [2**63 - 1, 3],
        [2**32, 2**32],  # 0 in 64 bits
        [10**400, 0],
        [2**60, 0],
        [-4, -6],
        [4, -6],
        [True, 24],
        [4.0, 6.0],
        ["4", "6"],
        [None, 24],
        [24],
        [2, 2, 6],
        [],
        [1] * 100,
        "4x6",
        {"4": 6},
        None,
        24,
    ):
        yield f"shape {str(shape)[:40]}", weight(shape)
    yield "fewer values", weight([4, 6], values=VALUES[:-4])
    yield "more values", weight([4, 6], values=VALUES + VALUES[:4])
    yield "no values", weight([4, 6], values=b"")
    yield "more bits", weight([4, 6], bits=b"\xff" * 3)
    yield "bits beyond the end", weight([3, 7], bits=MASK[:2] + b"\xe0")
    yield "bits too long", weight([4, 6], bits=MASK + b"\0")
    yield "bits of two sides", weight([4, 6], bits_shape=[3, 1])
    yield "values of two sides", weight([4, 6], values_shape=[2, 4])
    yield "scalar value", weight([1, 8], bits=b"\1", values=VALUES[:4], values_shape=[])
    yield "values of another dtype", weight([4, 6], stored="I32")
    yield "an integer matrix", weight([4, 6], dtype="I32")
    yield "narrower values", weight([4, 6], dtype="F16", stored="F32")
    for coded in (False, 1, 0, None, "true"):
        yield f"coded {coded}", weight([4, 6], coded=coded)

    for name, told in {
        "unknown dtype": entry("F7", [8], False, VALUES),
        "dtype of no name": entry(["F32"], [8], False, VALUES),  # type: ignore[arg-type]
        "other dtype": entry("I32", [8], False, VALUES),
        "other shape": entry("F32", [2, 4], False, VALUES),
        "other content": entry("F32", [8], False, VALUES[::-1]),
        "hash of another form": ENTRIES["b"] | {"sha256": ENTRIES["w"]["sha256"]},
        "hash of no text": ENTRIES["b"] | {"sha256": 5},
        "too much": ENTRIES["b"] | {"more": 1},
        "too little": {"dtype": "F32", "shape": [8], "coded": False},
        "no entry": None,
        "a list": [1],
    }.items():
        yield name, container(PARTS, signed(json.dumps(ENTRIES | {"b": told})))

    for name, parts in {
        "a tensor more": PARTS | {"more": PARTS["b"]},
        "a tensor less": {n: p for n, p in PARTS.items() if n != "b"},
        "a part less": {n: p for n, p in PARTS.items() if n != "w.bits"},
        "renamed": {n.replace("b", "c"): p for n, p in PARTS.items()},
        "swapped": PARTS | {"b": PARTS["w.values"], "w.values": (*PARTS["b"][:2], VALUES[::-1])},
        "same number of other bits": PARTS | {"w.bits": ("U8", [3], MASK[::-1])},
        "8-bit integers": PARTS | {"w.bits": ("I8", [3], MASK)},
        "a dtype torch lacks": PARTS | {"b": ("F4", [64], VALUES)},
    }.items():
        yield name, container(parts, signed(json.dumps(ENTRIES)))
    both = ENTRIES | {"w.bits": entry("U8", [3], False, MASK)}
    yield "two of one name", container(PARTS, signed(json.dumps(both)))
    flag = {"f": entry("BOOL", [2], False, b"\1\7")}
    yield "no bools", container({"f": ("BOOL", [2], b"\1\7")}, signed(json.dumps(flag)))
    far = {"f": ("F32", [2**33, 0, 2**33], b"")}
    told = {"f": entry("F32", far["f"][1], False)}
    yield "strides beyond 64 bits", container(far, signed(json.dumps(told)))

    text = json.dumps(ENTRIES)
    for name, listed in {
        "not JSON": text[:-1],
        "no text": "",
        "twice": text[:-1] + ", " + text[1:],
        "twice inside": text.replace('"coded": false', '"coded": false, "coded": false'),
        "NaN": text.replace("[8]", "[NaN]"),
        "Infinity": text.replace("[8]", "[-Infinity]"),
        "nested": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "nested lists": "[" * 1_000_000,
        "a long number": text.replace("[8]", f"[{'9' * 100_000}]"),
        "a large number": text.replace("[8]", "[1e999]"),
        "null": "null",
        "names alone": '["w", "b"]',
        "nothing": "{}",
        "half a character": text.replace('"b"', r'"\ud800"'),
    }.items():
        yield f"metadata: {name}", container(PARTS, signed(listed))
    yield "no hash", container(PARTS, signed(text) | {"sha256": ""})
    yield "hash of other text", container(PARTS, signed(text + " ") | {"tensors": text})
    for version in ("", "0", "-1", "1.0", "01", " 1", "٢", "9" * 5000, "one"):
        yield f"version {version[:9]}", container(PARTS, signed(text, version=version))
    yield "no metadata", container(PARTS, {})
    yield "metadata of no text", container(PARTS, {"format": ["prunella-sparse"]})


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Not more than 256 MB may be asked for: far below what the files here pretend to hold."""
    if sys.platform != "linux":
        yield
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_hostile_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for name, content in hostile():
        path.write_bytes(content)
        with suppress(UsageError):  # not all can be seen without reading weights
            sizes(path)
        with pytest.raises(UsageError) as raised:
            list(read(path))
        message = str(raised.value)
        assert str(path) in message and "; " in message, name
        assert message.isprintable() and len(message) < 1000, name


def flips(blob: bytes, source: random.Random) -> Iterator[bytes]:
    """One bit of every byte."""
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1 << source.randrange(8)
        yield bytes(changed)


def edits(blob: bytes, source: random.Random) -> Iterator[bytes]:
    """Cuts, insertions, copies from elsewhere, swaps, several at once."""

    def cut() -> slice:
        start = source.randrange(len(blob))
        return slice(start, start + source.choice([1, 2, 4, 8, 50, 500]))

    def splice(content: bytes) -> bytes:
        place, piece = cut(), blob[cut()]
        return content[: place.start] + piece + content[place.start + len(piece) :]

    def swap(content: bytes) -> bytes:
        width = source.choice([1, 4, 8, 32])
        one, two = sorted(source.sample(range(0, len(content) - width, width), 2))
        first, second = content[one : one + width], content[two : two + width]
        between, rest = content[one + width : two], content[two + width :]
        return content[:one] + second + between + first + rest

    ways: list[Callable[[bytes], bytes]] = [
        lambda content: content[: source.randrange(len(content))],
        lambda content: content[source.randrange(1, 100) :],
        lambda content: content + source.randbytes(source.randint(1, 100)),
        lambda content: content[: (place := cut()).start] + content[place.stop :],
        lambda content: content[: (at := cut().start)] + source.randbytes(8) + content[at:],
        lambda content: content.replace(source.randbytes(1), source.randbytes(1)),
        splice,
        swap,
        lambda content: splice(swap(content)),
    ]
    for _ in range(2500):
        yield source.choice(ways)(blob)


def lengths(blob: bytes, source: random.Random) -> Iterator[bytes]:
    """Other lengths of the header."""
    known = int.from_bytes(blob[:8], "little")
    near = [known + step for step in range(-40, 41)]
    far = [0, 1, 2, len(blob), 2**20, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 9]
    for length in (*near, *far, *(source.getrandbits(64) for _ in range(20))):
        yield length.to_bytes(8, "little") + blob[8:]


def digits(blob: bytes, source: random.Random) -> Iterator[bytes]:
    """Other numbers, dtypes and names in the header, of the same length or not."""
    known = 8 + int.from_bytes(blob[:8], "little")
    words = ["0", "1", "7", "9", "99", "-1", "1e9", "F16", "F64", "I32", "true", "null", '"', "}"]
    for _ in range(1000):
        start = source.randrange(8, known)
        stop = start + source.choice([1, 1, 2, 3])
        head = blob[8:start] + source.choice(words).encode() + blob[stop:known]
        yield len(head).to_bytes(8, "little") + head + blob[known:]


def signatures(blob: bytes, source: random.Random) -> Iterator[bytes]:
    """Other metadata, signed anew."""
    known = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:known])
    text = header["__metadata__"]["tensors"]
    words = ["0", "1", "-", "9999999999999", "F16", "F64", "I32", "true", "null", "[", "]", " ", ""]
    pieces = re.findall(r"\w+|\W", text)
    for _ in range(1500):
        changed = list(pieces)
        for _ in range(source.choice([1, 1, 1, 2, 5])):
            changed[source.randrange(len(pieces))] = source.choice([*words, source.choice(pieces)])
        header["__metadata__"] = signed("".join(changed))
        head = json.dumps(header).encode()
        yield len(head).to_bytes(8, "little") + head + blob[known:]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("mutations", [flips, edits, lengths, digits, signatures])
def test_a_damaged_file_is_refused_or_harmless(
    mutations: Callable[[bytes, random.Random], Iterator[bytes]], tmp_path: Path
) -> None:
    tensors = zoo()
    path = tmp_path / "file"
    write(tensors, path)
    refused = 0
    blob = path.read_bytes()
    for changed in mutations(blob, random.Random(0)):
        path.write_bytes(changed)
        try:
            back = contents(path)
        except UsageError as error:
            assert str(error).isprintable()
            refused += 1
        else:
            assert list(back) == list(tensors)
            assert all(same(back[name], tensors[name]) for name in tensors)
    assert refused


def test_files_that_are_no_sparse_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        list(read(tmp_path / "missing"))
    with pytest.raises(UsageError, match="there is no file"):
        list(read(tmp_path))
    path = tmp_path / "file"
    for content in (b"", b"\0", b"PK\3\4" * 20, b"\x80\x02}q\x00." * 9):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is damaged"):
            list(read(path))
    path.write_bytes(container(PARTS, {"format": "pt"}))
    with pytest.raises(UsageError, match=r"format 'pt', not 'prunella-sparse'; .* Transformers"):
        list(read(path))
    path.write_bytes(container(PARTS, signed("of the future", version="3")))
    with pytest.raises(UsageError, match=r"version 3 of the format, .* reads 2; upgrade Prunella"):
        sizes(path)
