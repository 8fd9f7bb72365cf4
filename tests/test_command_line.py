"""Command line and configuration: every default runs, every wrong value is named."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import pytest

from engine.command_line import config_arguments, parse_config, parse_evaluation, run_script
from methods import METHODS, config_from_plain, make_config, method_names, read_config
from utils.config import Config, check_config
from utils.settings import flatten, option_name, setting_names, to_plain
from utils.stages import STAGES, TUMOR_COARSE, TUMOR_FINE, Stage, stage_named


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message with which a train script's command line is refused."""
    with pytest.raises(SystemExit) as exit_:
        parse_config(TUMOR_COARSE, argv)
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_without_arguments_the_configuration_is_the_stage_and_the_defaults(stage: Stage) -> None:
    config = parse_config(stage, [])
    assert config == make_config(stage)
    check_config(config)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_default_can_be_given_as_it_is_shown(stage: Stage, method: str) -> None:
    config = make_config(stage, method)
    given = [
        as_given(name, default)
        for owner in (config, stage, config.settings)
        for name, _, default in flatten(owner)
    ]
    assert parse_config(stage, ["--method", method, *chain.from_iterable(given)]) == config


def as_given(name: str, value: object) -> list[str]:
    """`value` as a user would give it; nothing where only leaving it out means it."""
    flag = "--" + name.replace("_", "-")
    if value is None or value == () or value == {}:
        return []
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    if isinstance(value, dict):
        return [flag, *(f"{key}={item}" for key, item in value.items())]
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def test_the_stage_table_is_the_protocols() -> None:
    rows = {}
    for name, stage in STAGES.items():
        settings, weights = make_config(stage).settings, make_config(stage).settings.weights
        terms = {term for term, weight in weights.items() if weight > 0}
        rows[name] = (
            stage.epochs, stage.max_voxels, settings.view_count, terms, settings.slices,
        )  # fmt: skip
    everything = {"seg", "dis", "tran", "con", "cos"}
    assert rows["pancreas_coarse"][0] == 150
    assert rows["pancreas_coarse"][2:] == (2, {"seg", "con", "cos"}, False)
    assert rows["pancreas_fine"] == (150, 6_000_000, 1, {"seg", "con"}, False)
    assert rows["tumor_coarse"] == (800, 4_000_000, 2, everything, False)
    assert rows["tumor_fine"] == (800, 6_000_000, 2, everything, True)
    assert [stage.previous for stage in STAGES.values()] == [None, *list(STAGES)[:3]]
    config = make_config(TUMOR_FINE)
    assert (config.lr, config.lr_power, config.weight_decay, config.seed) == (1e-4, 0.9, 5e-4, 2022)


def test_a_stage_holds_nothing_of_a_method() -> None:
    of_methods = {name for m in METHODS.values() for name in setting_names(m.Settings)}
    assert not of_methods & {item.name for item in fields(Stage)}


def test_the_weight_of_one_term_leaves_the_others() -> None:
    weights = parse_config(TUMOR_COARSE, ["--weights", "con=0.1", "cos=0"]).settings.weights
    assert weights == {"seg": 1, "dis": 1, "tran": 1, "con": 0.1, "cos": 0}


def test_zero_is_a_value_that_a_user_can_mean() -> None:
    config = parse_config(TUMOR_COARSE, ["--seed", "0", "--workers", "0", "--weight-decay", "0"])
    assert (config.seed, config.workers, config.weight_decay) == (0, 0, 0)


def test_tuples_flags_and_method_settings_are_read_as_their_types() -> None:
    argv = ["--sources", "A", "B", "--jitter-voxels", "-5", "40", "--no-resume", "--slices"]
    argv += ["--views.kernel-sizes", "1", "3", "--augment.noise-std", "0"]
    config = parse_config(TUMOR_COARSE, argv)
    assert config.sources == ("A", "B")
    assert config.stage.jitter_voxels == (-5, 40)
    assert config.resume is False
    assert config.settings.slices is True
    assert config.settings.views.kernel_sizes == (1, 3)
    assert config.settings.augment.noise_std == 0.0
    assert config.settings.augment.rotation_degrees == 15.0


def test_a_method_is_asked_for_by_name_with_its_own_settings() -> None:
    for name in METHODS:
        config = parse_config(TUMOR_FINE, ["--method", name, "--augment.noise-std", "0.05"])
        assert config == make_config(TUMOR_FINE, name, {"augment.noise_std": 0.05})
    assert parse_config(TUMOR_FINE, ["--method=bl"]).method == "bl"


@pytest.mark.parametrize("argv", [["--temperature", "0.1"], ["--slices"], ["--view-count=3"]])
def test_a_setting_that_the_method_lacks_is_refused_with_those_that_it_has(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "--method", "bl", *argv)
    option = argv[0].partition("=")[0]
    assert f"{option}: method bl has no such setting (bl_idr, " in message
    assert "its settings are --augment.rotation-degrees, " in message
    assert message.endswith("--weights")


def test_an_unknown_method_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "--method", "oures")
    assert "--method" in message
    for name in METHODS:
        assert name in message


@pytest.mark.parametrize(
    "argv",
    [
        ["--width", "12"],
        ["--width", "0"],
        ["--epochs", "0"],
        ["--view-count", "0"],
        ["--accumulate", "0"],
        ["--workers", "-1"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--lr-power", "-1"],
        ["--weight-decay", "-0.1"],
        ["--seed", "-1"],
        ["--spacing", "1", "0", "1"],
        ["--stride", "0"],
        ["--rounds", "0"],
        ["--threshold", "1"],
        ["--temperature", "0"],
        ["--steepness", "0"],
        ["--max-voxels", "511"],
        ["--window-voxels", "0", "8"],
        ["--margin-voxels", "5", "-1", "25"],
        ["--jitter-voxels", "30", "0"],
        ["--jitter-z-fraction", "0.2", "0.1"],
        ["--rescale-probability", "1.5"],
        ["--rescale-range", "0", "1.2"],
        ["--rescale-range", "1.2", "0.8"],
        ["--agreement-dice", "2"],
        ["--min-round-voxels", "-1"],
        ["--weights", "con=-1"],
        ["--weights", "con=many"],
        ["--weights", "con=null"],
        ["--weights", "con=Infinity"],
        ["--weights", "seg=0", "dis=0", "tran=0", "con=0", "cos=0"],
        ["--weights", "other=1"],
        ["--weights", "con"],
        ["--sources", "A", "A"],
        ["--time", "2026/01"],
        ["--checkpoint-seconds", "nan"],
        ["--consistency", "nothing"],
        ["--upsample", "cubic"],
        ["--precision", "fp8"],
        ["--epochs", "many"],
        ["--spacing", "1", "1"],
        ["--mirror-axes", "0", "3"],
        ["--mirror-axes", "1", "1"],
        ["--seed", "9223372036854775808"],
        ["--holdout", "1"],
        ["--time", "."],
        ["--augment.noise-std", "-1"],
        ["--augment.rotation-probability", "1.1"],
        ["--views.kernel-sizes", "2"],
        ["--views.mode", "other"],
        ["--denominator", "all"],
        ["--sources"],
    ],
    ids=" ".join,
)
def test_a_wrong_value_is_refused_with_the_name_of_the_setting(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert argv[0] in refusal(capsys, *argv)


def test_the_unseen_center_cannot_be_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "--sources", "A", "B", "--target", "B")
    assert "--target B" in message


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--learning-rate" in refusal(capsys, "--learning-rate", "1")


def changed_config() -> Config:
    """A configuration in which every field differs from its default."""
    argv = "--epochs 3 --view-count 3 --no-slices --consistency cosine --sources A B --target C"
    argv += " --window-voxels 8 16 --weights con=0.5 --views.kernel-sizes 1 3 --no-resume --time t1"
    argv += " --centers x/c.toml --spacing 3 1 1 --upsample nearest --checkpoints /tmp/ä"
    return parse_config(TUMOR_FINE, argv.split())


@pytest.mark.parametrize(
    "config",
    [
        *(make_config(stage, name) for stage in STAGES.values() for name in METHODS),
        changed_config(),
    ],
)
def test_a_configuration_comes_back_from_json_equal(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_plain(config)), encoding="utf-8")
    back = read_config(path)
    assert back == config
    for owner, other in ((back, config), (back.stage, config.stage)):
        for item in fields(owner):
            assert type(getattr(owner, item.name)) is type(getattr(other, item.name)), item.name


def test_a_configuration_of_another_version_is_refused_with_the_key() -> None:
    plain = to_plain(make_config(TUMOR_COARSE))
    with pytest.raises(ValueError, match="momentum"):
        config_from_plain({**plain, "momentum": 0.9})
    with pytest.raises(ValueError, match="stage"):
        config_from_plain({key: value for key, value in plain.items() if key != "stage"})
    stage = {key: value for key, value in plain["stage"].items() if key != "roi"}
    with pytest.raises(ValueError, match="roi"):
        config_from_plain({**plain, "stage": stage})
    with pytest.raises(ValueError, match="augmentation"):
        config_from_plain({**plain, "settings": {"augmentation": 1}})
    with pytest.raises(ValueError, match="unknown method 'other'"):
        config_from_plain({**plain, "method": "other"})


@pytest.mark.parametrize("name", list(METHODS))
def test_a_configurations_arguments_give_it_again(name: str) -> None:
    for stage in STAGES.values():
        assert config_arguments(make_config(stage, name)) == (
            () if name == "ours" else ("--method", name)
        )
    config = make_config(
        replace(TUMOR_FINE, epochs=3, mirror_axes=(0,)), name, {"augment.noise_std": 0.5},
        sources=("A", "B"), target="C", tensorboard=False, seed=0, centers=Path("x y.toml"),
    )  # fmt: skip
    assert parse_config(TUMOR_FINE, config_arguments(config)) == config
    changed = changed_config()
    assert parse_config(TUMOR_FINE, config_arguments(changed)) == changed


def test_a_configuration_is_frozen_and_the_stages_are_untouched_by_the_command_line() -> None:
    before = make_config(TUMOR_COARSE)
    parse_config(TUMOR_COARSE, ["--weights", "con=0.1", "--epochs", "1"])
    assert make_config(TUMOR_COARSE) == before
    assert TUMOR_COARSE.epochs == 800


def test_an_unknown_stage_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="tumor_fine"):
        stage_named("liver")


def test_evaluation_keeps_what_was_given_and_defaults_to_segmented_rois() -> None:
    evaluation = parse_evaluation(TUMOR_COARSE, ["--sources", "A", "B", "--target", "C"])
    assert (evaluation.sources, evaluation.target) == (("A", "B"), "C")
    assert (evaluation.stage, evaluation.roi_source) == ("tumor_coarse", "seg")


def test_what_the_user_can_fix_ends_a_script_with_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(error: Exception) -> None:
        raise error

    for error in (ValueError("case x is bad"), FileNotFoundError("no file y")):
        with pytest.raises(SystemExit) as exit_:
            run_script(fail, error)
        assert exit_.value.code == 2
        assert capsys.readouterr().err == f"error: {error}\n"
    with pytest.raises(KeyError):
        run_script(fail, KeyError("a mistake of the program"))


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_the_help_of_a_train_script_tells_default_and_source_of_every_setting(
    stage: Stage, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(stage, ["--method", method, "--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    config = make_config(stage, method)
    for owner in (config, stage, config.settings):
        for name, item, _ in flatten(owner):
            _, found, text = shown.partition(f"{option_name(name)} ")
            assert found, name
            assert item.metadata["help"]
            text = text.partition(item.metadata["help"])[2]
            assert item.metadata["source"]
            assert text.lstrip().startswith("(default: "), name
            assert f"; source: {item.metadata['source']})" in text[:120], name
    assert "default: 0.0001;" in shown
    assert f"default: {stage.epochs};" in shown
    assert f"method {method}:" in shown
    assert f"--method {{{','.join(method_names())}}}" in shown
