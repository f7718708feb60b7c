"""The configuration file: what `init` writes is read back, and every refusal says where and why."""

import dataclasses

import pytest
import yaml

from pipelines.config import ConfigError, NightConfig, load_config, render_config
from pipelines.spacing.file import render_spacing
from retrieval.spacing.classes import Spacing
from selection.experiments import Arm, Experiment
from selection.queries import SelectionConfig


def test_rendered_defaults_are_read_back() -> None:
    assert load_config(render_config(NightConfig()), "f") == NightConfig()


def test_every_option_is_in_the_file_with_its_meaning() -> None:
    text = render_config(NightConfig()) + render_spacing(Spacing())

    def names(config: object) -> list[str]:
        own = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type] # any config
        below = [getattr(config, n) for n in own]
        return own + [n for c in below if dataclasses.is_dataclass(c) for n in names(c)]

    keys = [line.strip().split(":")[0] for line in text.splitlines() if not line.startswith("#")]
    for name in names(NightConfig()):
        assert name in keys or name == "spacing"  # a file of its own
    assert "(one of counts, importance, reward" in " ".join(text.replace("#", "").split())


def test_an_experiment_is_read_back() -> None:
    arms = (
        Arm("counts", 0.5, SelectionConfig(policy="counts")),
        Arm("reward", 0.5, SelectionConfig(policy="reward", beta=3.0)),
    )
    config = NightConfig(experiment=Experiment(name="first", arms=arms))
    assert load_config(render_config(config), "f") == config


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("selection:\n  polcy: counts\n", 2, ["selection.polcy", "no such option"]),
        ("seed: 0\nseed: 1\n", 2, ["seed", "given twice"]),
        ("seed: 1\nselection:\n  floor: 7\n", 2, ["floor", "7", "<= 1"]),
        ("profiles:\n  alpha: soft\n", 2, ["profiles.alpha", "'soft'"]),
        ("actions: []\n", 1, ["actions", "1 to 62"]),
        ("actions:\n- {name: a}\n- {name: a}\n", 1, ["'a' twice"]),
        ("surfaces: []\n", 1, ["surfaces", "none"]),
    ],
)
def test_refusals_name_file_line_value_and_cure(text: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(text, "my.yaml")
    message = str(error.value)
    assert message.startswith("my.yaml:")
    assert abs(int(message.split(":")[1]) - line) <= 1
    for word in words:
        assert word in message


def test_no_yaml_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml(.|\n)*line 1"):
        load_config("a: [", "my.yaml")


def test_yaml_cannot_make_objects() -> None:
    with pytest.raises((ConfigError, yaml.YAMLError)):
        load_config("!!python/object/apply:os.getcwd []", "my.yaml")
