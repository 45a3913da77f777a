"""Bare weights of any PyTorch network, through a factory that the user names.

``--model package.module:factory`` is imported from the current directory; the factory takes no argument, or the
content of ``--model-config`` as keywords, and returns an ``nn.Module`` whose ``forward(x, t)`` predicts what
``--prediction`` says.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from auditor.checkpoints import files, flips, names, origin, weights
from auditor.checkpoints.configs import read_json
from auditor.checkpoints.formats import Guide, Unusable
from auditor.checkpoints.headers import Header
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion.model import Conditioned, Network
from auditor.errors import AuditError, CheckpointError
from auditor.records import Checkpoint, Facts, Flips, Found

MAKE = "--model mypackage.networks:make"
HOW = "Give --model MODULE:FACTORY, a function in your code that returns the network (an nn.Module)."


class PlainFormat(files.WeightFiles):
    """One file of weights per step, and a function that makes the network."""

    name = "plain"
    uses = ("model", "model_config")
    REVISION = 1
    guide = Guide(
        trainers="anything else in PyTorch: own loops, lightning, accelerate, guided-diffusion, k-diffusion, the "
        "paper's code",
        layout="`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`, or `Model_500` without a suffix; or a folder per step "
        "(`checkpoint-500/model.safetensors`, `500.ckpt/nnet.pth`); FSDP's and DeepSpeed's where one file holds all "
        "(`pytorch_model_fsdp.bin`, `pytorch_model/mp_rank_00_model_states.pt`); OneTrainer's "
        "`DATE_TIME-save-STEP-EPOCH-EPOCHSTEP`, SimpleTuner's `checkpoint-500/ema/`",
        weights="the factory says which names are sought: any key, or item of a list, that holds exactly these is "
        "right, with a prefix on either side (`module.`, `_orig_mod.`, `model.`; a factory's `net.`). "
        "Averages: under `ema`, `model_ema`, `target_model` and other keys of that sense, as a list in the "
        "order of the parameters (score_sde, torch_ema, diffusers' `EMAModel`), as LitEma's, as lightning's "
        "`EMAWeightAveraging`, or in files called `ema_...` or `..._ema`; buffers that they lack come from "
        "the raw weights. Of several one is taken and named (the least rate); averages that cannot be read "
        "are listed as left out",
        schedule="`--scheduler` and `--prediction`",
        command="`--model MODULE:FACTORY --image-shape 32x32x1 --prediction epsilon --scheduler ddpm`",
        tested="written by lightning's Trainer; for arXiv 2603.03469, of its authors' network class at width 8, "
        "trained with their loss and saved by their statement; other layouts by `torch.save`",
        examples=(
            (
                "lightning, accelerate, an own loop",
                f"{MAKE} --image-shape 32x32x1 --prediction epsilon --scheduler ddpm",
            ),
            ("the same, trained as a flow", f"{MAKE} --image-shape 32x32x3 --prediction flow"),
            (
                "guided-diffusion, improved-diffusion (`ema_...` files are the averages; the factory calls "
                "`create_model(...)` with the flags of the training)",
                f"{MAKE} --image-shape 64x64x3 --prediction epsilon --scheduler ddpm",
            ),
            (
                "the authors' code of arXiv 2603.03469 (`Models/Model_500`, `Model_epoch_3`; paper.json is below)",
                f"{MAKE} --image-shape 32x32x1 --scheduler paper.json --pixel-range 0,1 --pixel-mean own",
            ),
            (
                "score_sde, variance-exploding (the network takes sigma and gives the score; ve.json is below)",
                f"{MAKE} --image-shape 32x32x3 --scheduler ve.json --pixel-range 0,1",
            ),
            (
                "EDM, without its pickles (the factory returns the preconditioned network)",
                f"{MAKE} --image-shape 32x32x3 --prediction edm",
            ),
        ),
    )

    def claims(self, header: Header) -> bool:
        """Any file of weights: what its network is, the user says."""
        return True

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the steps under ``root``; nothing is claimed without a factory."""
        if self.settings.model is None:
            bare = [Path(entry.path) for entry in names.entries(root) if not entry.is_dir(follow_symlinks=False)]
            bare = [path for path in bare if path.suffix in names.WEIGHT_SUFFIXES]
            reason = f"these may be the weights of a network. {HOW}"
            return [], [(-1, path, reason) for path in bare if not names.NO_MODEL.fullmatch(path.stem)]
        found, unusable = super().find(root)
        return found, unusable or ([] if found else files.empty_steps(root))

    def expected(self) -> weights.Expected | None:
        """Return the names and shapes of the factory's network: which names are sought in a file."""
        return files.expected_of(made(self.settings)[0])

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return the number of weights; the shape of the pictures is known to the user alone."""
        return Facts(self.settings.image_shape, self.settings.model or "?", files.n_values(checkpoint))

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return what EDM's options say, where the weights are its; other trainers write nothing of the kind."""
        return flips.of_edm(checkpoint.path.parent)

    def read(self, checkpoint: Checkpoint) -> tuple[Any, dict[str, Any], str]:
        """Return the factory's network, the weights that fit it, and the sha256 over them and all that made it.

        That is the source of the factory with what it imports of the user's own, its arguments, and what the network
        holds beside weights: numbers that come from elsewhere, from a file that the factory reads, say.
        """
        network, factory = made(self.settings)
        tensors = files.chosen(checkpoint, files.expected_of(network), self.settings.trust_pickle)
        told = json.dumps([origin.sources_of(factory), factory_arguments(self.settings)], sort_keys=True)
        return network, tensors, weights.digest(tensors, told, _kept(network, self.settings))

    def called(self, network: Any) -> tuple[Network, Conditioned | None]:
        """Return the network, its output checked, and without the half of it that is a learned variance."""

        def call(x: Any, t: Any) -> Any:
            found: Any = network(x, t)
            found = getattr(found, "sample", found[0] if isinstance(found, (tuple, list)) else found)
            if found.shape[1] == 2 * x.shape[1]:
                found = found[:, : x.shape[1]]  # the other half is a learned variance
            if found.shape != x.shape:
                what = f"The network gives {list(found.shape)} for {list(x.shape)}."
                raise CheckpointError(what, self.settings.model, "forward(x, t) must return a tensor like x.")
            return found

        return call, None


def factory_arguments(settings: ModelSettings) -> dict[str, Any]:
    """Return what the factory is called with."""
    return read_json(Path(settings.model_config).expanduser()) if settings.model_config else {}


def _kept(network: Any, settings: ModelSettings) -> str:
    """Return what a factory's network holds beside weights, as far as the factory makes the same every time."""
    first, again = origin.held(network), origin.held(made(settings)[0])
    return json.dumps({name: value for name, value in first.items() if again.get(name) == value}, sort_keys=True)


def made(settings: ModelSettings) -> tuple[Any, Any]:
    """Return the factory's network and the factory.

    Raises
    ------
    AuditError
        If the factory cannot be imported or called, or returns no network.
    """
    import torch

    if settings.model is None:
        raise AuditError("It is not known which network the weights belong to.", "--model", HOW)
    factory = _factory(settings.model)
    arguments = factory_arguments(settings)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn; the global generator must not notice
        try:
            network = factory(**arguments)
        except Exception as problem:  # the user's code may raise anything
            what = f"The factory {settings.model} failed: {type(problem).__name__}: {problem}."
            raise AuditError(what, "--model", "Call it in Python to see why.") from problem
    if not isinstance(network, torch.nn.Module):
        what = f"The factory {settings.model} returned {type(network).__name__}, not an nn.Module."
        raise AuditError(what, "--model", HOW)
    return network, factory


def _factory(given: str) -> Any:
    module, _, name = given.partition(":")
    if not module or not name:
        raise AuditError(f"{given!r} does not name a factory.", "--model", HOW)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as problem:  # the user's module may raise anything
        what = f"{given} cannot be imported: {type(problem).__name__}: {problem}."
        raise AuditError(what, "--model", "Start the audit in the folder that holds the module.") from problem
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise AuditError(f"{given} is no function.", "--model", HOW)
    return found
