"""Frozen features on disk: computed once, found again only where nothing has changed, never believed if damaged."""

import json
import os

import numpy as np
import pytest
import torch

from core.files import DiskFull
from models.backbones.features import cached_features, file_key, weights_hash

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    def __init__(self, seed=0, pool="cls"):
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.norm, self.pool = torch.nn.Linear(12, 5), torch.nn.BatchNorm1d(5), pool
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.linear(x.flatten(1))))


class Files:
    """Radiographs of 2 x 2 pixels; counts what is read."""

    def __init__(self, folder, count=9):
        self.paths = [str(folder / f"{i}.bin") for i in range(count)]
        for i, path in enumerate(self.paths):
            with open(path, "wb") as file:
                file.write(np.random.default_rng(i).integers(0, 255, 4, dtype=np.uint8).tobytes())
        self.read = []

    def pixels(self, path):
        self.read.append(os.path.basename(path))
        return torch.from_numpy(np.fromfile(path, np.uint8).reshape(1, 2, 2))

    def batches(self, paths, size=4):
        def of(rows):
            for begin in range(0, len(rows), size):
                yield torch.stack([self.pixels(paths[row]) for row in rows[begin : begin + size]])

        return of


def normalise(x):
    return x.float().expand(-1, 3, -1, -1) / 255


def features(network, files, folder, paths=None, **changes):
    paths = files.paths if paths is None else paths
    files.read.clear()
    settings = {
        "folder": folder,
        "preprocessing": {"size": 2},
        "normalise": normalise,
        "device": CPU,
    } | changes
    return cached_features(network, paths, files.batches(paths), **settings)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "set").mkdir()
    return Files(tmp_path / "set")


def test_features_in_order_and_again_from_disk(files, tmp_path):
    network = Network().train()
    first = features(network, files, tmp_path / "cache")
    expected = torch.stack([normalise(files.pixels(p)[None])[0] for p in files.paths])
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(first.values), Network().eval()(expected), rtol=0, atol=1e-6
        )
    assert (first.computed, first.reused, first.notes) == (
        9,
        0,
        [],
    ) and first.values.dtype == np.float32
    assert network.training  # as it was
    again = features(network, files, tmp_path / "cache", files.paths[::-1] + files.paths[:1])
    assert (again.computed, again.reused, files.read) == (0, 9, [])
    assert np.array_equal(again.values, first.values[[*range(8, -1, -1), 0]])
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first.path.name]


def test_only_what_is_new_is_computed(files, tmp_path):
    some = features(Network(), files, tmp_path, files.paths[2:5])
    assert files.read == ["2.bin", "3.bin", "4.bin"]
    both = features(Network(), files, tmp_path, [*files.paths[4:7], files.paths[5]])
    assert files.read == ["5.bin", "6.bin"] and (both.computed, both.reused) == (2, 1)
    assert np.array_equal(both.values[0], some.values[2]) and np.array_equal(
        both.values[1], both.values[3]
    )
    assert features(Network(), files, tmp_path, []).values.shape[0] == 0


def test_a_changed_file_is_computed_again(files, tmp_path):
    before = features(Network(), files, tmp_path)
    facts = os.stat(files.paths[3])
    with open(files.paths[3], "wb") as file:
        file.write(b"\x01\x02\x03\x04")
    os.utime(files.paths[3], ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    after = features(Network(), files, tmp_path)
    assert files.read == ["3.bin"] and (before.values != after.values).any(1).tolist() == [
        i == 3 for i in range(9)
    ]


def test_by_content_moved_files_are_found_and_copies_computed_once(files, tmp_path):
    before = features(Network(), files, tmp_path, content=True)
    moved = str(tmp_path / "set" / "other.bin")
    os.rename(files.paths[3], moved)
    after = features(Network(), files, tmp_path, [moved, *files.paths[4:]], content=True)
    assert files.read == [] and np.array_equal(after.values, before.values[3:])
    assert file_key(moved, True) != file_key(moved)


@pytest.mark.parametrize(
    "network, changes",
    [
        (Network(1), {}),
        (Network(pool="mean"), {}),
        (Network(), {"preprocessing": {"size": 3}}),
        (Network(), {"precision": "bf16"}),
    ],
)
def test_other_weights_preprocessing_pool_or_precision_have_their_own_file(
    files, tmp_path, network, changes
):
    first = features(Network(), files, tmp_path)
    other = features(network, files, tmp_path, **changes)
    assert other.computed == 9 and other.path != first.path
    assert features(Network(), files, tmp_path).computed == 0


def test_the_hash_of_the_weights_sees_every_bit():
    network = Network()
    before = weights_hash(network)
    assert before == weights_hash(Network())
    network.norm.running_var[2] = torch.nextafter(network.norm.running_var[2], torch.tensor(9.0))
    assert weights_hash(network) != before
    assert weights_hash(Network().bfloat16()) != before


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "pickled", "parts", "nan"])
def test_a_damaged_file_is_computed_anew_and_said_so(files, tmp_path, kind):
    first = features(Network(), files, tmp_path)
    content = first.path.read_bytes()
    keys = np.array([file_key(p) for p in files.paths], "S64")
    if kind == "cut":
        first.path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        where = content.index(first.values.tobytes()) + 7
        first.path.write_bytes(content[:where] + bytes([content[where] ^ 4]) + content[where + 1 :])
    elif kind in ("empty", "text"):
        first.path.write_bytes(b"" if kind == "empty" else b"hello")
    elif kind == "pickled":
        np.savez(first.path, keys=keys, values=np.array([{}] * 9, dtype=object))
    else:
        values = first.values[:5] if kind == "parts" else np.full_like(first.values, np.nan)
        np.savez(first.path, keys=keys, values=values)
    again = features(Network(), files, tmp_path)
    assert again.computed == 9 and np.array_equal(again.values, first.values)
    assert (
        len(again.notes) == 1 and "damaged" in again.notes[0] and str(first.path) in again.notes[0]
    )
    assert features(Network(), files, tmp_path).notes == []


def test_a_failure_leaves_the_file_as_it_was(files, tmp_path, monkeypatch):
    first = features(Network(), files, tmp_path, files.paths[:3])
    content = first.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.files.os.replace", full)
    with pytest.raises(DiskFull, match="no room to write"):
        features(Network(), files, tmp_path)
    monkeypatch.undo()
    assert first.path.read_bytes() == content and len(list(tmp_path.glob("*.npz"))) == 1
    with pytest.raises(ValueError, match="not finite, first .*5.bin"):
        bad = Network()
        features(
            bad,
            files,
            tmp_path / "bad",
            [files.paths[5]],
            normalise=lambda x: normalise(x) * float("nan"),
        )
    with pytest.raises(ValueError, match="0 radiographs came for 1 rows"):
        cached_features(
            Network(),
            [files.paths[8]],
            lambda rows: [],
            folder=tmp_path,
            preprocessing={"size": 2},
            normalise=normalise,
            device=CPU,
        )
    with pytest.raises(FileNotFoundError):
        features(Network(), files, tmp_path, [str(tmp_path / "nothing.bin")])


def test_the_file_says_what_it_is(files, tmp_path):
    found = features(Network(), files, tmp_path)
    with np.load(found.path) as archive:
        about = json.loads(archive["about"].tobytes())
    assert about["weights"] == weights_hash(Network()) and about["preprocessing"] == {"size": 2}
