"""Noise schedules, what a network predicts, and the one convention into which every network is put.

Inside an audit every network is one of a variance-preserving process in T discrete times, as diffusers has it: x_t =
sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, and its output is ``epsilon``, ``sample`` or ``v_prediction``. Networks of a
linear flow (``flow``), EDM denoisers (``edm``) and scores of a variance-exploding process (``ve``) are converted into
that process at equal signal-to-noise ratio. The conversion is exact: all Gaussian processes differ from one another by
a scaling of x_t and a naming of t, and DDIM steps of the converted network are Euler steps of the flow's and of EDM's
own equation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

# The configuration of diffusers' DDPMScheduler(), spelled out so that a later default cannot change an audit.
DDPM = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
# x_t = (1 - s) x_0 + s eps; the network takes s times num_train_timesteps and returns eps - x_0 (Stable Diffusion 3).
FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "prediction_type": "flow",
}
# x = x_0 + sigma eps; the network takes sigma and returns the denoised image (Karras et al. 2022, table 1).
EDM = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "prediction_type": "edm"}
# x = x_0 + sigma eps; the network takes sigma and returns the score, -eps / sigma (Song et al. 2021; score_sde).
VE = {"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 1348.0, "prediction_type": "ve"}
NAMED = {"ddpm": DDPM, "flow": FLOW, "edm": EDM, "ve": VE}
CONTINUOUS = {"flow": "FlowMatch", "edm": "EDM", "ve": "ScoreSdeVe"}  # and how their schedulers in diffusers are called
DISCRETE = ("epsilon", "sample", "v_prediction")
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "sample": "sample"} | {
    name: name for name in CONTINUOUS
}  # as users spell them
N_LEVELS = 1000  # times into which a continuous process is divided
LEAST_ABAR = 2.0**-24  # diffusers' own floor for pure noise
# What DDIMScheduler, DDPMScheduler and DPMSolverMultistepScheduler of diffusers 0.42 all accept.
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# What must be equal for two checkpoints to be of one recipe.
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "shift",
    "sigma_min",
    "sigma_max",
    "rho",
)


MOST_STEPS = 100_000  # of a discrete schedule: arrays of as many numbers are made


def completed(config: Mapping[str, Any], prediction: str | None = None) -> dict[str, Any]:
    """Return a scheduler's configuration with what the network predicts spelled out; ``prediction`` wins."""
    config = dict(config)
    name = str(config.get("_class_name"))
    if prediction in CONTINUOUS and not name.startswith(CONTINUOUS[prediction]):
        return dict(NAMED[prediction])  # a schedule by betas says nothing about a flow, nor about EDM
    # Old diffusers wrote predict_epsilon, and where that was true often no prediction type at all.
    predicts = "epsilon" if config.pop("predict_epsilon", True) else "sample"
    if name.startswith("FlowMatch"):
        config = {**FLOW, **config, "prediction_type": "flow"}
    elif name.startswith(CONTINUOUS["ve"]):
        config = {**VE, **config, "prediction_type": "ve"}
    elif prediction == "edm":
        config = {**EDM, **config, "prediction_type": "edm"}
    else:
        config.setdefault("prediction_type", predicts)
    return config if prediction is None else {**config, "prediction_type": prediction}


def problem(config: Mapping[str, Any]) -> str:
    """Return why a configuration, completed, is not supported; an empty string where it is."""
    kind = config["prediction_type"]
    if str(config.get("_class_name")).startswith(CONTINUOUS["ve"]) and kind != "ve":
        return f"it is variance-exploding, and a network of it gives the score (--prediction ve), not {kind}"
    if "Ve" in str(config.get("_class_name")) and kind != "ve":
        return "it is variance-exploding: --prediction ve where the network gives the score, edm where it denoises"
    if kind in CONTINUOUS and not str(config.get("_class_name")).startswith(CONTINUOUS[kind]):
        return f"prediction_type is {kind}"
    if kind == "flow":
        return _flow_problem(config)
    if kind == "ve":
        ends: list[Any] = [config.get(key) for key in ("sigma_min", "sigma_max")]
        fit = all(map(_is_number, ends)) and 0 < ends[0] < ends[1]
        return "" if fit else f"sigma_min {ends[0]} and sigma_max {ends[1]} are no schedule"
    if kind == "edm":
        numbers: list[Any] = [config.get(key) for key in ("sigma_min", "sigma_max", "rho")]
        low, high, rho = numbers
        fit = all(_is_number(one) and one > 0 for one in numbers) and low < high
        return "" if fit else f"sigma_min {low}, sigma_max {high} and rho {rho} are no schedule"
    n_steps, betas = config.get("num_train_timesteps"), config.get("trained_betas")
    if type(n_steps) is not int or not 1 <= n_steps <= MOST_STEPS:  # True is no number of steps
        return f"num_train_timesteps is {n_steps}"
    if kind not in DISCRETE:
        return f"prediction_type is {kind}"
    if str(config.get("_class_name")).startswith("EDM"):
        return f"{config['_class_name']} preconditions raw networks; a network that denoises takes --prediction edm"
    if betas is None:
        if config.get("beta_schedule") not in BETA_SCHEDULES:
            return f"beta_schedule is {config.get('beta_schedule')}"
        betas = [config.get(key, DDPM[key]) for key in ("beta_start", "beta_end")]
    elif not isinstance(betas, list) or len(betas) != n_steps:
        return f"trained_betas is no list of {n_steps} numbers"
    if kind == "epsilon" and (config.get("rescale_betas_zero_snr") or (config.get("trained_betas") and betas[-1] == 1)):
        return (
            "its last time holds no signal (zero terminal signal-to-noise ratio), where predicted noise says nothing "
            "of the image: networks of it predict v or the sample"
        )
    wrong = [beta for beta in betas if not _is_number(beta) or not 0 < beta <= 1]
    return f"a beta is {wrong[0]}, not in (0, 1]" if wrong else ""


def _flow_problem(config: Mapping[str, Any]) -> str:
    if config.get("use_dynamic_shifting"):
        return "use_dynamic_shifting makes the schedule depend on the image size"
    for key in ("num_train_timesteps", "shift"):
        if not _is_number(config.get(key)) or config[key] <= 0:
            return f"{key} is {config.get(key)}"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and np.isfinite(value)


def by_betas(betas: Any, prediction: str, clip: bool = True) -> dict[str, Any]:
    """Return the configuration of a discrete schedule given by its betas, float ``[T]``."""
    values = [float(beta) for beta in betas]
    return DDPM | {
        "num_train_timesteps": len(values),
        "trained_betas": values,
        "prediction_type": prediction,
        "clip_sample": clip,
    }


def n_times(config: Mapping[str, Any]) -> int:
    """Return T, the number of discrete times of the process inside."""
    return N_LEVELS if config["prediction_type"] in CONTINUOUS else int(config["num_train_timesteps"])


def noise_ratios(config: Mapping[str, Any]) -> np.ndarray:
    """Return noise over signal at each time of a continuous process, float64 ``[1000]``, ascending.

    flow: s / (1 - s) at s = (t + 1) / 1000, shifted as the configuration says. edm: sigma on the grid of Karras et al.
    ve: sigma from sigma_min to sigma_max in equal ratios, as training draws it.
    """
    at = np.arange(1, N_LEVELS + 1) / N_LEVELS
    if config["prediction_type"] == "flow":
        shift = float(config["shift"])
        level = shift * at / (1 + (shift - 1) * at)
        return level / np.maximum(1 - level, LEAST_ABAR**0.5)
    if config["prediction_type"] == "ve":
        return np.geomspace(float(config["sigma_min"]), float(config["sigma_max"]), N_LEVELS)
    low, high = (float(config[key]) ** (1 / float(config["rho"])) for key in ("sigma_min", "sigma_max"))
    return (low + (at - at[0]) / (1 - at[0]) * (high - low)) ** float(config["rho"])


def as_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration from which diffusers builds its schedulers: of the process inside."""
    if config["prediction_type"] in DISCRETE:
        # The half of the output that holds a learned variance is dropped, so the steppers must not look for it.
        learned = str(config.get("variance_type")).startswith("learned")
        return {**config, "variance_type": "fixed_small"} if learned else dict(config)
    abar = np.maximum(1 / (1 + noise_ratios(config) ** 2), LEAST_ABAR)
    betas = 1 - abar / np.concatenate([[1.0], abar[:-1]])
    # Trailing: sampling starts at pure noise, which leading spacing leaves out.
    return by_betas(betas, "v_prediction", clip=False) | {"timestep_spacing": "trailing"}


def forward_process(config: Mapping[str, Any]) -> Any:
    """Return the DDPM scheduler of the process inside: the only class whose ``add_noise`` is q(x_t | x_0) for all t."""
    return _forward_process(json.dumps(dict(config), sort_keys=True))


@lru_cache(maxsize=4)
def _forward_process(config: str) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(as_diffusers(json.loads(config)))


def log_snr(config: Mapping[str, Any]) -> np.ndarray:
    """Return ln(abar_t / (1 - abar_t)) of the process inside, float64 ``[T]``; larger means less noise."""
    abar = forward_process(config).alphas_cumprod.double().clamp(LEAST_ABAR, 1 - LEAST_ABAR).numpy()
    return np.log(abar / (1 - abar))


def target_weights(config: Mapping[str, Any]) -> np.ndarray:
    """Return by what a squared error of the process inside is multiplied to be that of the own target, float64 ``[T]``.

    1 for discrete processes. flow: 1 / ((1 - s)^2 + s^2), which makes it the error of eps - x_0. edm: 1, the error of
    the denoised image times (1 + sigma^2) / sigma^2, which is EDM's own weight for images of unit variance. ve:
    1 / (1 + sigma^2), which makes it the error of sigma times the score, the noise.
    """
    if config["prediction_type"] == "ve":
        return 1 / (1 + _ratios(config).numpy() ** 2)
    if config["prediction_type"] != "flow":
        return np.ones(n_times(config))
    ratio = _ratios(config).numpy()
    return (1 + ratio) ** 2 / (1 + ratio**2)


def _ratios(config: Mapping[str, Any]) -> Any:
    """Return noise over signal as the float32 schedule of diffusers has it: where the network is really called."""
    abar = forward_process(config).alphas_cumprod.double()
    return ((1 - abar) / abar).sqrt()


def convert(network: Callable[..., Any], config: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    """Return a network of the process inside, ``(x_t, int64 t) -> output``, from one of its own process."""
    kind = config["prediction_type"]
    if kind in DISCRETE:
        return network
    ratios = _ratios(config)

    def levels(x: Any, t: Any) -> Any:
        return ratios.to(t.device)[t].to(x.dtype)

    def across(values: Any) -> Any:
        return values.view(-1, 1, 1, 1)

    def flow(x: Any, t: Any) -> Any:
        ratio = levels(x, t)
        level = ratio / (1 + ratio)
        s, scale = across(level), across(((1 - level) ** 2 + level**2).sqrt())
        own = scale * x
        velocity = network(own, level * float(config["num_train_timesteps"]))
        return (1 - 2 * s) / scale * own + scale * velocity

    def edm(x: Any, t: Any) -> Any:
        sigma = levels(x, t)
        scale = across((1 + sigma**2).sqrt())
        denoised = network(scale * x, sigma)
        return (x / scale - denoised) * scale / across(sigma)

    def ve(x: Any, t: Any) -> Any:
        sigma = levels(x, t)
        scale, noise = across((1 + sigma**2).sqrt()), across(sigma)
        eps = -noise * network(scale * x, sigma)
        return scale * eps - noise * x

    return {"flow": flow, "edm": edm, "ve": ve}[kind]
