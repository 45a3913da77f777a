"""Settings: one name each on the command line and in a file, checked before anything is imported."""

from __future__ import annotations

import dataclasses

import pytest

from auditor.config import AuditConfig, checked_value, from_file, option, resolve
from auditor.errors import AuditError


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "audit.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_takes_the_names_of_the_command_line_with_hyphens_or_underscores(written):
    path = written('n-samples = 30\nsampling_steps = 4\nckpts-a = "runs/a"\nallow-overlap = true\n')
    expected = {"n_samples": 30, "sampling_steps": 4, "ckpts_a": "runs/a", "allow_overlap": True}
    assert from_file(path) == expected


def test_lists_and_numbers_become_the_text_one_would_type(written):
    path = written('spaces = ["pixel", "correlation"]\nsteps = [500, 1000]\nbatch-size = 32\n')
    config = resolve({}, path)
    assert config.space_names == ("pixel", "correlation")
    assert config.step_numbers == (500, 1000)
    assert config.batch_size == "32"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(written):
    path = written("n-samples = 30\nseed = 7\n")
    config = resolve({"n_samples": 40, "seed": None}, path)
    assert (config.n_samples, config.seed, config.sampler) == (40, 7, "ddim")


def test_an_unknown_name_in_a_file_is_refused_with_the_nearest_known_one(written):
    path = written("n-sample = 30\n")
    with pytest.raises(AuditError, match="There is no setting 'n-sample'") as caught:
        from_file(path)
    assert caught.value.where == str(path) and "Did you mean n-samples?" in caught.value.remedy


@pytest.mark.parametrize("line", ['n-samples = "30"', "n-samples = 3.5", "n-samples = true", "allow-overlap = 1"])
def test_a_value_of_another_type_is_refused(written, line):
    with pytest.raises(AuditError, match="is of the wrong type"):
        from_file(written(line))


@pytest.mark.parametrize("line", ["train-a = true", "scheduler = {beta = 1}", "out = 3.5"])
def test_a_value_that_is_no_text_is_refused_where_a_path_or_name_is_meant(written, line):
    with pytest.raises(AuditError, match="is of the wrong type"):
        from_file(written(line))


def test_a_file_that_is_no_toml_or_not_there_is_refused(written, tmp_path):
    with pytest.raises(AuditError, match="is no TOML"):
        from_file(written("n-samples: 30"))
    with pytest.raises(AuditError, match="cannot be read: No such file"):
        from_file(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 1}, "--n-samples is 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"sampling_steps": 0}, "--sampling-steps is 0"),
        ({"loss_images": 1}, "--loss-images is 1"),
        ({"loss_levels": 0}, "--loss-levels is 0"),
        ({"batch_size": "0"}, "'0' is no count"),
        ({"batch_size": "many"}, "'many' is no count"),
        ({"steps": "500;1000"}, "'500;1000' is no list of steps"),
        ({"spaces": "pixle"}, "There is no space 'pixle'"),
        ({"spaces": ","}, "No space is given"),
    ],
)
def test_values_out_of_range_are_refused_by_name_and_with_a_remedy(settings, message):
    with pytest.raises(AuditError, match=message) as caught:
        AuditConfig(**settings)
    (name,) = settings
    assert caught.value.where == option(name) and caught.value.remedy


def test_a_misspelled_space_is_answered_with_the_nearest_one():
    with pytest.raises(AuditError) as caught:
        AuditConfig(spaces="pixel,corelation")
    assert "Did you mean correlation?" in caught.value.remedy


def test_spaces_keep_their_order_without_repetition():
    assert AuditConfig(spaces="clip, pixel,clip").space_names == ("clip", "pixel")


def test_every_setting_says_what_it_is_and_survives_a_file():
    for each in dataclasses.fields(AuditConfig):
        assert each.metadata["help"].endswith((".", "]")), each.name
        if each.default is not None:
            written = list(each.default) if isinstance(each.default, tuple) else each.default  # as TOML has it
            assert checked_value(each.name, written, "x.toml") == each.default


def test_a_further_training_beside_twins_is_named_as_all_further_ones_are_and_the_older_option_is_read_on():
    twins = {"ckpts_a": "a", "ckpts_b": "b"}
    named, older = resolve(twins | {"ckpts": ["a2=runs/a2"]}, None), resolve(twins | {"ckpts_a2": "runs/a2"}, None)
    assert named == older and named.ckpts_a2 == "runs/a2" and named.ckpts == ()
    with pytest.raises(AuditError, match="given twice"):
        resolve(twins | {"ckpts": ["a2=x"], "ckpts_a2": "y"}, None)


def test_three_named_trainings_stay_three_whatever_one_of_them_is_called():
    names = ["a2=x", "y=y", "z=z"]
    assert resolve({"ckpts": names, "train": names}, None).ckpts == tuple(names)
