"""``model-N.pt`` of the trainer in the package denoising-diffusion-pytorch.

The file holds the network, its average, and the buffers of the noise schedule, from which the schedule and what the
network predicts follow exactly. It does not hold the arguments of the network: ``--model-config``, or ``model.json``
or ``config.json`` beside the series, gives those of ``Unet``, and the image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from auditor.checkpoints import files
from auditor.checkpoints.configs import read_json
from auditor.checkpoints.formats import Guide
from auditor.checkpoints.headers import Header, read_floats, read_header, tensors_in
from auditor.diffusion import schedules
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Flips

NAMES = ("model.json", "config.json")  # of what lies beside the series
BUFFERS = ("betas", "alphas_cumprod", "loss_weight")
UNET, DIFFUSION = "model.", ("image_size", "auto_normalize", "min_snr_loss_weight", "objective", "beta_schedule")
HOW = 'Write the arguments of Unet to a JSON file, {"dim": 64, "dim_mults": [1, 2, 4, 8], "image_size": 32}'
HOW += ", and give it as --model-config FILE, or call it model.json and put it beside the checkpoints."


class DenoisingDiffusionPytorchFormat(files.WeightFiles):
    """Networks of ``denoising_diffusion_pytorch.Trainer``."""

    name = "denoising-diffusion-pytorch"
    uses = ("model_config",)
    REVISION = 1
    guide = Guide(
        trainers="the `Trainer` of denoising-diffusion-pytorch",
        layout="`model-1.pt`, `model-2.pt`; the numbers are milestones, the true steps are read from the files",
        weights="`ema` (`ema_model.*`) and `model`",
        schedule="the buffers `betas` and `loss_weight` in the file: schedule and objective follow exactly",
        command="`--model-config model.json`, or put it beside the series: "
        '`{"dim": 64, "dim_mults": [1, 2, 4, 8], "channels": 3, "image_size": 32}`',
        tested="written by its Trainer",
        examples=(("", "--model-config model.json"),),
    )

    def claims(self, header: Header) -> bool:
        """Whether that trainer wrote a file: a Unet and the buffers of GaussianDiffusion."""
        state = _state(header)
        convolutions = [state.get(f"{UNET}{name}.weight") for name in ("init_conv", "final_conv")]
        return all(one is not None and len(one.shape) == 4 for one in convolutions) and set(BUFFERS) <= state.keys()

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the model arguments and the shapes of the weights say."""
        arguments = self._arguments(checkpoint)
        state = _state(read_header(checkpoint.path))
        size = arguments.get("image_size")
        size = [size, size] if type(size) is int else size
        channels = state[f"{UNET}final_conv.weight"].shape[0]
        shape = (*size, channels) if isinstance(size, list) and len(size) == 2 else None
        pixels = (-1.0, 1.0) if arguments.get("auto_normalize", True) else (0.0, 1.0)
        n = sum(one.size for name, one in state.items() if name.startswith(UNET))
        return Facts(shape, "denoising_diffusion_pytorch.Unet", n, pixels=pixels)

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the schedule whose betas the file holds; what is predicted follows from the weights of the loss."""
        state = _state(read_header(checkpoint.path))
        betas, abar, loss_weight = (read_floats(checkpoint.path, state[name]) for name in BUFFERS)
        return schedules.by_betas(betas, predicted(abar, loss_weight, checkpoint.path))

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return that nothing says it, while this trainer mirrors images unless it is told not to."""
        return Flips(None, "denoising-diffusion-pytorch mirrors images unless told otherwise, and does not record it")

    def built(self, checkpoint: Checkpoint, device: str) -> tuple[Any, object]:
        """Return the Unet that the arguments describe, and the arguments."""
        arguments = {key: each for key, each in self._arguments(checkpoint).items() if key not in DIFFUSION}
        given = {key: tuple(each) if isinstance(each, list) else each for key, each in arguments.items()}
        path, failed = checkpoint.path, f"Unet cannot be built with {given}"
        unet = files.foreign_class("denoising_diffusion_pytorch", "Unet", path)
        return files.made(unet, given, device, failed=failed, path=path, remedy=HOW), sorted(arguments.items())

    def _arguments(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the arguments of the network: from --model-config, or from a file beside the series."""
        given = self.settings.model_config
        places = [Path(given).expanduser()] if given else [checkpoint.path.parent / name for name in NAMES]
        path = next((each for each in places if each.is_file()), None)
        if path is None and given:
            raise CheckpointError(f"The model arguments {given} are not there.", "--model-config", HOW)
        if path is None:
            raise CheckpointError("The arguments of the network are not saved with it.", checkpoint.path, HOW)
        return read_json(path, CheckpointError)


def _state(header: Header) -> dict[str, Any]:
    content = header.content if isinstance(header.content, dict) else {}
    return tensors_in(content.get("model"))


def predicted(abar: np.ndarray, loss_weight: np.ndarray, path: Path) -> str:
    """Return what the network predicts: the trainer weighs its loss differently for each.

    The weight is clip(SNR) over SNR for noise, clip(SNR) for the image, clip(SNR) over SNR + 1 for v.
    """
    snr = abar / (1 - abar)
    clipped = np.minimum(snr, 5.0)  # min_snr_gamma
    for clip in (snr, clipped):
        for kind, expected in (("epsilon", clip / snr), ("sample", clip), ("v_prediction", clip / (snr + 1))):
            if np.allclose(loss_weight, expected, rtol=1e-3, atol=1e-6):
                return kind
    raise CheckpointError(
        "What the network predicts does not follow from its loss weights.",
        path,
        "Give --prediction epsilon, v or sample.",
    )
