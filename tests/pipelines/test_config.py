"""Configuration: defaults, merging, messages, round trip and digest."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import ConfigError, RunConfig, load_config


def test_without_file_and_overrides_the_preset_comes_back():
    assert load_config() == RunConfig()
    assert RunConfig().data.image_size is None
    assert RunConfig().model.similarity == "cosine"


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 4\ndata:\n  image_size: 128\n  mode: stretch\n")
    config = load_config(path, ["data.image_size=224", "data.classes=[benign,malignant]"])
    assert config.seed == 4
    assert config.data.image_size == 224
    assert config.data.mode == "stretch"
    assert config.data.classes == ("benign", "malignant")
    assert config.training == RunConfig().training


def test_an_empty_file_means_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("# nothing yet\n")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.size=1",
            r"data\.size is not a key\. Known here: augment, classes, image_size, mode",
        ),
        ("date.size=1", r"date is not a key\. Known here: data, last_layer, model, preset, seed"),
        ("data.image_size=4", r"data\.image_size: .*16.*got 4"),
        ("data.image_size=large", r"data\.image_size: .*integer.*got 'large'"),
        ("last_layer.ridge=0", r"last_layer\.ridge: .*greater than 0"),
        ("model.similarity=dot", r"model\.similarity: .*'cosine' or 'log'"),
        ("data.image_size", r"must read section\.key=value, got 'data\.image_size'"),
        ("=3", r"must read section\.key=value"),
        ("data.classes=[a", r"value of data\.classes is not valid YAML"),
        ("seed=-1", r"seed: .*greater than or equal to 0"),
        ("data=3", r"data: .*got 3"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_a_key_inside_a_value_is_refused():
    with pytest.raises(ConfigError, match="inside a value"):
        load_config(None, ["seed=1", "seed.more=2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: [1, 2", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"- a\n- b\n", "must hold sections"),
        (b"3\n", "must hold sections"),
    ],
)
def test_bad_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


@settings(max_examples=25, deadline=None)
@given(
    size=st.none() | st.integers(16, 2048),
    names=st.none() | st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4),
    ridge=st.floats(1e-12, 1e6),
    seed=st.integers(0, 2**31),
)
def test_yaml_round_trip_keeps_everything(tmp_path_factory, size, names, ridge, seed):
    values = {
        "seed": seed,
        "data": {"image_size": size, "classes": names},
        "last_layer": {"ridge": ridge},
    }
    config = RunConfig.model_validate(values)
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert again.digest() == config.digest()


def test_the_digest_changes_with_any_value_and_with_nothing_else():
    base = RunConfig().digest()
    assert RunConfig.model_validate(yaml.safe_load(RunConfig().to_yaml())).digest() == base
    changed = {load_config(None, [o]).digest() for o in ("seed=1", "data.augment=false")}
    assert len(changed | {base}) == 3
    assert base.startswith("sha256:")
    assert len(base) == 7 + 64
