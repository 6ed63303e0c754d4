# SPDX-License-Identifier: Apache-2.0
import argparse
import collections
import pickle

import numpy as np
import pytest
import torch

from butd_hf.conversion.pickles import PickleError, read_pickle


DATA = {
    "opt": argparse.Namespace(rnn_size=1000, drop=0.5, flags=[True, None], nested={1: (2, 3)}),
    "vocab": {"1": "a", "2": "dog", "3": "café"},
    "order": collections.OrderedDict(b=1, a=2),
    "index": np.arange(6, dtype=np.int64).reshape(2, 3),
    "scalar": np.float32(1.5),
    "raw": b"\x00\xff",
    "seen": {1, 2},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps(DATA, protocol=protocol))
    read = read_pickle(tmp_path / "infos.pkl")
    assert vars(read["opt"]) == vars(DATA["opt"])
    assert np.array_equal(read["index"], DATA["index"]) and read["index"].dtype == np.int64
    assert read["scalar"] == 1.5
    assert {name: read[name] for name in ("vocab", "order", "raw", "seen")} == {
        name: DATA[name] for name in ("vocab", "order", "raw", "seen")
    }


def test_python_2_is_read(tmp_path):
    # a dict with an argparse.Namespace, as Python 2.7 wrote it with protocol 0
    old = (
        b"(dp0\nS'opt'\np1\nccopy_reg\n_reconstructor\np2\n(cargparse\nNamespace\np3\nc__builtin__\nobject\np4\nNtp5\n"
        b"Rp6\n(dp7\nS'rnn_size'\np8\nI1000\nsS'id'\np9\nS'fc'\np10\nsbsS'vocab'\np11\n(dp12\nS'1'\np13\nVdog\np14\nss."
    )
    (tmp_path / "infos.pkl").write_bytes(old)
    read = read_pickle(tmp_path / "infos.pkl")
    assert vars(read["opt"]) == {"rnn_size": 1000, "id": "fc"}
    assert read["vocab"] == {"1": "dog"}


class Trap:
    def __reduce__(self):
        return open, ("trapped", "w")


class Evaluation:
    def __reduce__(self):
        return eval, ("open('trapped', 'w')",)


@pytest.mark.parametrize(
    "content", [Trap(), {"opt": [Evaluation()]}, torch.nn.Linear, torch.device("cpu"), np.load], ids=lambda _: "trap"
)
def test_anything_else_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(PickleError, match=r"infos\.pkl: the pickle asks for .*; only plain data"):
        read_pickle(tmp_path / "infos.pkl")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(DATA)[:40]], ids=["empty", "text", "cut off"])
def test_what_is_no_pickle_is_an_error(tmp_path, content):
    (tmp_path / "infos.pkl").write_bytes(content)
    with pytest.raises(PickleError, match=r"infos\.pkl"):
        read_pickle(tmp_path / "infos.pkl")
