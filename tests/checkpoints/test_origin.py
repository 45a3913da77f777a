"""Everything that a network of the user's own is made from is in its digest, and nothing else is."""

from __future__ import annotations

import sys

import pytest
import torch

from auditor import checkpoints
from auditor.checkpoints import ModelSettings
from auditor.records import Checkpoint

FACTORY = "from parts.net import Net\n\n\ndef make(**given):\n    from parts import late\n    return Net(**given)\n"
NET = """import json, random, torch
from .scale import FACTOR
from . import unused_here


class Net(torch.nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain, self._offset, self.born = gain, json.load(open("numbers.json"))["offset"], random.random()
        self.conv = torch.nn.Conv2d(1, 1, 1)
        self.register_buffer("loose", torch.tensor(json.load(open("numbers.json"))["loose"]), persistent=False)

    def forward(self, x, t):
        return self.conv(x) * self.gain
"""
FILES = {
    "nets.py": FACTORY,
    "parts/__init__.py": "",
    "parts/net.py": NET,
    "parts/scale.py": "FACTOR = 1\n",
    "parts/unused_here.py": "import deeper\n",
    "parts/late.py": "x = 1\n",
    "deeper.py": "y = 1\n",
    "stranger.py": "z = 1\n",
    "numbers.json": '{"offset": 1, "loose": [0.5]}',
    "m.json": '{"gain": 1.0}',
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Return the digest of one checkpoint after some files were written anew."""
    monkeypatch.chdir(tmp_path)
    own = ("nets", "parts", "deeper", "stranger")

    def found(**changed):
        for name, text in (FILES | {name.replace("__", "/"): text for name, text in changed.items()}).items():
            path = tmp_path / name.replace("/init/", "/__init__")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in [each for each in sys.modules if each.partition(".")[0] in own]:
            del sys.modules[name]
        torch.save({"conv.weight": torch.ones(1, 1, 1, 1), "conv.bias": torch.zeros(1)}, "model_5.pt")
        how = ModelSettings(model="nets:make", model_config="m.json", image_shape=(8, 8, 1), prediction="epsilon")
        return checkpoints.inspect(Checkpoint("a", 5, tmp_path / "model_5.pt", "plain", "raw", None), how).digest

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield found
    for name in [each for each in sys.modules if each.partition(".")[0] in own]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "changed",
    [
        {"m.json": '{"gain": 0.2}'},
        {"nets.py": FACTORY + "# new\n"},
        {"parts/net.py": NET + "# new\n"},
        {"parts/scale.py": "FACTOR = 2\n"},
        {"parts/late.py": "x = 2\n"},
        {"deeper.py": "y = 2\n"},
        {"numbers.json": '{"offset": 2, "loose": [0.5]}'},
        {"numbers.json": '{"offset": 1, "loose": [0.75]}'},
    ],
)
def test_whatever_a_network_is_made_from_changes_its_digest(digest, changed):
    first = digest()
    assert digest(**changed) != first


def test_the_digest_is_the_same_again_and_what_is_not_imported_does_not_change_it(digest):
    first = digest()
    assert digest() == first  # although the network keeps a number that is another one each time
    assert digest(**{"stranger.py": "z = 2\n"}) == first
    assert digest(**{"m.json": '{ "gain": 1.0 }\n'}) == first
