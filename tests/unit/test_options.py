"""The options of a backend: named, documented, and with one place for their defaults and checks."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

import histstore
import histstore.sync
from histstore import Durability, HistoryStoreError, Observer, RetryPolicy, SnapshotError
from histstore.options import DEFAULTS, Options

NAMES = [field.name for field in dataclasses.fields(Options)]
CONSTRUCTORS: list[Any] = [
    maker
    for shell in (histstore, histstore.sync)
    for maker in (shell.RedisBackend.__init__, shell.RedisBackend.from_url, shell.RedisBackend.embedded)
]
MAKERS: list[Callable[..., Any]] = [
    maker
    for shell in (histstore, histstore.sync)
    for maker in (shell.RedisBackend.from_url, shell.RedisBackend.embedded)
]


@pytest.mark.parametrize("maker", CONSTRUCTORS, ids=lambda maker: f"{maker.__module__}.{maker.__name__}")
def test_every_option_is_named_typed_and_has_the_one_default(maker: Any) -> None:
    """A constructor has each option as a keyword of its own, with the default and the type of `Options`."""
    parameters = inspect.signature(maker).parameters
    options = [name for name in parameters if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY]
    assert options == NAMES + ["host_map"] * (maker.__name__ == "from_url")
    assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in parameters.values()}
    types = get_type_hints(Options)
    for field in dataclasses.fields(Options):
        default = parameters[field.name].default
        if default is None:  # "as Options says", or None itself
            assert field.name in ("run_ttl", "retry", "durability", "observer")
        else:
            assert default == getattr(DEFAULTS, field.name)
        annotation = eval(parameters[field.name].annotation, vars(inspect.getmodule(maker)))
        assert annotation in (types[field.name], types[field.name] | None)


@pytest.mark.parametrize("maker", CONSTRUCTORS, ids=lambda maker: f"{maker.__module__}.{maker.__name__}")
def test_every_option_is_documented_with_its_default(maker: Any) -> None:
    """The docstring of each constructor tells what an option is, in which unit, and its default."""
    shell = histstore if maker.__module__.startswith("histstore._async") else histstore.sync
    text = inspect.getdoc(shell.RedisBackend if maker.__name__ == "__init__" else maker)
    assert text is not None
    found = dict(re.findall(r"^    (\w+): ((?:.*\n)(?:        .*\n)*)", text + "\n", re.MULTILINE))
    for name in NAMES:
        told = " ".join(found[name].split())
        assert "Default:" in told, name
        assert {"run_ttl": "in seconds", "max_snapshot_bytes": "in bytes", "retry": "seconds"}.get(name, "") in told
    assert "64 MiB" in found["max_snapshot_bytes"]
    assert DEFAULTS.max_snapshot_bytes == 64 * 1024 * 1024
    assert f'"{DEFAULTS.namespace}"' in found["namespace"]
    assert f"Default: {DEFAULTS.keep_revisions}." in found["keep_revisions"]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: f"{maker.__module__}.{maker.__name__}")
def test_options_reach_the_backend(maker: Any) -> None:
    """Each option that is given is the backend's."""
    given: dict[str, Any] = {
        "namespace": "mine",
        "run_ttl": 1.5,
        "keep_revisions": 7,
        "retry": RetryPolicy(attempts=2),
        "durability": Durability(replicas=1),
        "max_snapshot_bytes": 1000,
        "observer": Observer(),
    }
    assert list(given) == NAMES
    backend = maker(**given)
    for name, value in given.items():
        assert getattr(backend, name) == value
    plain = maker(retry=None, durability=None)
    for name in NAMES:
        assert getattr(plain, name) == getattr(DEFAULTS, name)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: f"{maker.__module__}.{maker.__name__}")
def test_a_misspelt_option_is_refused(maker: Any) -> None:
    """Python itself names the option that does not exist; a value of no use is a SnapshotError that names it."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'run_tll'"):
        maker(run_tll=3)
    with pytest.raises(SnapshotError, match="keep_revisions is a whole number"):
        maker(keep_revisions="many")


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": ""},
        {"namespace": 3},
        {"run_ttl": 0},
        {"run_ttl": "1h"},
        {"run_ttl": float("nan")},
        {"run_ttl": True},
        {"run_ttl": 1e12},
        {"keep_revisions": -1},
        {"keep_revisions": True},
        {"keep_revisions": 1.0},
        {"retry": None},
        {"retry": Durability()},
        {"durability": RetryPolicy()},
        {"max_snapshot_bytes": 0},
        {"max_snapshot_bytes": 1e6},
        {"observer": print},
        {"observer": Observer},
    ],
    ids=repr,
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    """A wrong value is told when the options are made, by name, in one line."""
    [name] = wrong
    with pytest.raises(HistoryStoreError, match=name) as raised:
        Options(**wrong)
    assert "\n" not in str(raised.value)


def test_options_are_a_value() -> None:
    """Options compare, cannot be changed, and survive pickle."""
    options = Options("n", run_ttl=0.0001 + 1, retry=RetryPolicy(deadline=1.0))
    assert pickle.loads(pickle.dumps(options)) == options
    assert options.ttl_ms == 1000
    assert DEFAULTS.ttl_ms is None
    assert Options(run_ttl=0.001).ttl_ms == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.namespace = "other"  # type: ignore[misc]
