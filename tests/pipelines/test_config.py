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
            r"data\.size is not a key\. Known here: augment, blacken_outside, channels, classes",
        ),
        ("date.size=1", r"date is not a key\. Known here: data, last_layer, model, preset, seed"),
        ("data.image_size=4", r"data\.image_size: .*16.*got 4"),
        ("data.image_size=large", r"data\.image_size: .*integer.*got 'large'"),
        ("last_layer.ridge=0", r"last_layer\.ridge: .*greater than 0"),
        ("model.similarity=dot", r"model\.similarity: .*'cosine', 'log', 'linear' or 'focal'"),
        ("model.add_on=wide", r"model\.add_on: .*'none', 'regular' or 'bottleneck', got 'wide'"),
        ("model.head=x", r"model\.head: .*'multilabel' or 'ordinal', got 'x'"),
        ("model.prototypes_per_class=0", r"^model\.prototypes_per_class: .*to 1.*tuple, got 0"),
        ("model.prototypes_per_class=[3,-1]", r"^model\.prototypes_per_class: .*equal to 0"),
        ("model.prototype_size=[1,0]", r"^model\.prototype_size: .*equal to 1"),
        ("model.weights=''", r"model\.weights: .*at least 1"),
        ("model.pretrained=true", r"model\.pretrained is not a key\. Known here: .*weights"),
        ("data.mode=spacing", r"data\.mode=spacing and data\.spacing_mm must be given together"),
        ("data.spacing_mm=2", r"must be given together, got mode letterbox and spacing_mm 2"),
        ("data.image_size=[32,32]", r"data\.image_size"),
        ("data.repeats=0", r"data\.repeats: .*equal to 1, got 0"),
        ("training.steps_per_epoch=0", r"training\.steps_per_epoch: .*equal to 1, got 0"),
        ("training.schedule=once", r"training\.schedule: .*'single' or 'repeated', got 'once'"),
        ("training.projection=best", r"training\.projection: .*'nearest' or 'function-preserving'"),
        ("training.orthogonality=-1", r"training\.orthogonality: .*equal to 0"),
        ("training.cluster=.inf", r"training\.cluster: .*finite"),
        ("model.similarity_scale=.nan", r"model\.similarity_scale: .*finite number, got nan"),
        ("data.classes=normal", r"data\.classes must be a list, such as .*got 'normal'"),
        ("data.label_columns=nodule", r"data\.label_columns must be a list.*got 'nodule'"),
        ("preset=quick", r"preset: .*'clinical' or 'paper', got 'quick'"),
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
    names=st.none()
    | st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4, unique=True),
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


def test_the_paper_preset_has_the_published_values():
    config = load_config(None, preset="paper")
    model, training = config.model, config.training
    assert (model.similarity, model.similarity_scale, model.top_k) == ("log", 1.0, 1)
    assert (model.add_on, model.prototype_channels, model.prototype_size) == ("regular", 128, 1)
    assert (model.prototypes_per_class, model.initialization) == (10, "uniform")
    assert (training.cluster, training.separation, config.last_layer.l1) == (0.8, 0.08, 1e-4)
    assert (training.batch_size, config.data.repeats) == (80, 30)
    assert (config.data.image_size, config.data.mode) == (224, "stretch")
    assert not training.class_weights
    assert training.projection_epochs() == [10, 20, 30]
    published = load_config(None, ["training.epochs=1000"], preset="paper").training
    assert published.projection_epochs() == list(range(10, 1000, 10))


def test_a_preset_changes_defaults_alone_and_explicit_keys_win(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: paper\ntraining:\n  batch_size: 4\nseed: 3\n")
    config = load_config(path, ["data.repeats=2"])
    assert (config.preset, config.seed) == ("paper", 3)
    assert (config.training.batch_size, config.data.repeats) == (4, 2)
    assert (config.training.warm_epochs, config.data.mode) == (5, "stretch")
    assert load_config(path, preset="clinical").model.similarity == "cosine"
    assert load_config(path, ["preset=paper"], preset="clinical").model.similarity == "log"
    assert RunConfig(preset="paper").training.schedule == "repeated"


def test_a_resolved_configuration_of_the_paper_preset_comes_back(tmp_path):
    config = load_config(None, ["training.class_weights=true", "seed=2"], preset="paper")
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    assert load_config(path).digest() == config.digest()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=10"], r"training\.epochs must reach .*0 to 9 .*after none"),
        (["training.warm_epochs=11"], r"training\.warm_epochs \(11\); got .*\[10, 20, 30\]"),
        (["model.head=binary"], r"model\.head must be multiclass where .*got binary"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides, preset="paper")


@pytest.mark.parametrize(
    "override",
    ["model.prototypes_per_class=[0,4]", "model.prototype_size=[2,3]", "model.weights=null"],
)
def test_the_other_forms_of_a_value_are_taken(override):
    name, text = override.removeprefix("model.").split("=")
    value = getattr(load_config(None, [override]).model, name)
    assert value == (None if text == "null" else tuple(yaml.safe_load(text)))


def test_a_network_of_ones_own_brings_its_weights():
    assert load_config(None, ["model.backbone=mine:build"]).model.weights is None
    given = load_config(None, ["model.backbone=mine:build", "model.weights=package"])
    assert given.model.weights == "package"  # to be refused when it is built
    assert load_config(None, ["model.backbone=resnet18"]).model.weights == "package"


def test_label_columns_mean_the_multilabel_head(tmp_path):
    config = load_config(None, ["data.label_columns=[nodule,effusion]"])
    assert config.data.label_columns == ("nodule", "effusion")
    assert config.model.head == "multilabel"
    assert config == load_config(
        None, ["data.label_columns=[nodule,effusion]", "model.head=multilabel"]
    )
    resolved = config.model_copy(
        update={"data": config.data.model_copy(update={"classes": ("nodule", "effusion")})}
    )
    (tmp_path / "c.yaml").write_text(resolved.to_yaml())
    assert load_config(tmp_path / "c.yaml") == resolved
    grades = load_config(None, ["model.head=ordinal", "data.classes=[low,middle,high]"])
    assert grades.model.head == "ordinal"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.head=multilabel"], r"must be given together, got head multilabel and .*none"),
        (
            ["model.head=binary", "data.label_columns=[a]"],
            r"must be given together, got head binary and label_columns \['a'\]",
        ),
        (["data.label_columns=[a]", "data.classes=[b,c]"], r"data\.classes must be left out"),
        (["data.label_columns=[]"], r"data\.label_columns: .*at least 1"),
        (["data.label_columns=a,b"], r"data\.label_columns must be a list, .*got 'a,b'"),
        (["model.head=ordinal"], r"needs data\.classes, at least three grades, .*got none"),
        (["model.head=ordinal", "data.classes=[a,b]"], r"got \['a', 'b'\]; two grades .*binary"),
        (["model.head=ordinal", "data.classes=[a,a,b]"], r"data\.classes must differ, got"),
        (
            ["data.label_columns=[a]", "training.schedule=repeated"],
            r"model\.head must be multiclass where .*got multilabel",
        ),
    ],
)
def test_heads_and_labels_that_do_not_fit_together_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)
