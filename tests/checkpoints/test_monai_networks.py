"""Networks of MONAI that are not audited are refused by their name, before anything is asked about them."""

from __future__ import annotations

import json

import pytest
import torch
import trained
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks import nets
from series import SHAPE, Case, checkpoint_of

from auditor.checkpoints import ModelSettings, model_facts
from auditor.errors import CheckpointError

PLAIN = {**trained.MONAI, "attention_levels": [False, False]}
NO_OUT = {name: value for name, value in PLAIN.items() if name != "out_channels"}
MAISI = {**{name: value for name, value in PLAIN.items() if name != "channels"}, "num_channels": [8, 8]}
OTHERS = {
    "three-dimensional": (nets.DiffusionModelUNet, {**PLAIN, "spatial_dims": 3}),
    "ControlNet": (nets.ControlNet, {**NO_OUT, "conditioning_embedding_num_channels": (8,)}),
    "SPADEDiffusionModelUNet": (nets.SPADEDiffusionModelUNet, {**PLAIN, "label_nc": 3}),
    "DiffusionModelUNetMaisi": (DiffusionModelUNetMaisi, {**MAISI, "spatial_dims": 3, "include_spacing_input": True}),
    "three-dimensional, of MAISI": (DiffusionModelUNetMaisi, {**MAISI, "spatial_dims": 3}),
}


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_of_monai_are_refused_by_name_without_a_configuration(name, bare, tmp_path):
    network, arguments = OTHERS[name]
    state = network(**arguments).state_dict()
    (tmp_path / "a").mkdir()
    torch.save(state if bare else {"model": state}, tmp_path / "a/net_epoch=1.pt")
    with pytest.raises(CheckpointError, match=name.partition(",")[0]) as caught:
        model_facts(checkpoint_of("monai", Case(tmp_path / "a")), ModelSettings(image_shape=SHAPE))
    assert ("--samples-a" in caught.value.remedy) == name.startswith("three")


def test_the_network_that_is_audited_is_not(tmp_path):
    (tmp_path / "a").mkdir()
    torch.save(nets.DiffusionModelUNet(**PLAIN).state_dict(), tmp_path / "a/net_epoch=1.pt")
    (tmp_path / "a/network.json").write_text(json.dumps(PLAIN))
    checkpoint = checkpoint_of("monai", Case(tmp_path / "a"))
    assert model_facts(checkpoint, ModelSettings(image_shape=SHAPE)).model == "monai.DiffusionModelUNet"
