"""Settings: which source wins, and what a person reads when one is wrong."""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, strategies as st

from sollol.cli.settings_text import effective_yaml, template
from sollol.scheduling.policies import POLICIES
from sollol.settings import (
    NodeSettings,
    SchedulingSettings,
    Settings,
    SettingsError,
    load,
    load_settings,
)
from sollol.settings.address import is_same_server, normalize_url, ollama_host_url
from sollol.settings.model import environment_name, setting_names
from sollol.settings.sources import suggestion
from sollol.settings.values import Group
from sollol.types import Engine


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(text: str) -> Path:
    path = Path("given.yaml")
    path.write_text(text, encoding="utf-8")
    return path


def _value(settings: Settings, name: str) -> object:
    group, _, member = name.partition(".")
    return getattr(getattr(settings, group), member)


def _errors(
    cli: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: str | None = None,
) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(cli or {}, env or {}, _write(file) if file is not None else None)
    return caught.value.lines


VALUES = {
    "server.port": (1001, 1002, 1003),
    "server.host": ("127.0.0.2", "127.0.0.3", "::1"),
    "embedded.enabled": (False, True, False),
    "embedded.threads": (1, 2, 3),
    "queue.timeout_s": (1.5, 2.5, 3.5),
    "log.level": ("debug", "warning", "error"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("present", list(itertools.product((False, True), repeat=3)))
def test_command_line_beats_environment_beats_file_beats_default(
    name: str, present: tuple[bool, bool, bool]
) -> None:
    group, _, member = name.partition(".")
    in_file, in_env, in_cli = (
        value if is_given else None for value, is_given in zip(VALUES[name], present, strict=True)
    )
    file = _write(yaml.safe_dump({group: {member: in_file}}))
    env = {} if in_env is None else {environment_name(name): str(in_env)}
    loaded = load({name: in_cli}, env, file)
    expected = [
        (in_cli, "command line"),
        (in_env, f"environment {environment_name(name)}"),
        (in_file, "given.yaml:2"),
        (_value(Settings(), name), None),
    ]
    value, source = next(pair for pair in expected if pair[0] is not None or pair is expected[-1])
    assert _value(loaded.settings, name) == value
    assert loaded.sources.get(name) == source


def test_every_source_can_give_nodes_and_replaces_the_lower_one() -> None:
    file = _write("nodes: [a, {url: b, slots: 2}]")
    assert [n.url for n in load_settings({}, {}, file).nodes] == [
        "http://a:11434",
        "http://b:11434",
    ]
    env = {"SOLLOL_NODES": "c, https://d/v1/"}
    assert [n.url for n in load_settings({}, env, file).nodes] == [
        "http://c:11434",
        "https://d:443/v1",
    ]
    cli = {"nodes": ["e:1"]}
    assert [n.url for n in load_settings(cli, env, file).nodes] == ["http://e:1"]


def test_the_environment_can_describe_nodes_as_json() -> None:
    env = {"SOLLOL_NODES": '[{"url": "gpu1", "name": "one", "api_key": "secret-1"}]'}
    (node,) = load_settings({}, env).nodes
    assert (node.id, node.url) == ("one", "http://gpu1:11434")
    assert node.api_key is not None
    assert node.api_key.get_secret_value() == "secret-1"


def test_lists_of_text_are_split_at_commas() -> None:
    env = {"SOLLOL_SERVER__ORIGINS": "https://a.example, app://x"}
    assert load_settings({}, env).server.origins == ("https://a.example", "app://x")


def test_where_new_models_go_is_one_choice() -> None:
    given = load_settings({}, {"SOLLOL_FLEET__PULL_TO": "gpu1,gpu2"})
    assert given.fleet.pull_to == ("gpu1", "gpu2")
    for text in ("all,gpu1", "one,all"):
        (line,) = _errors(env={"SOLLOL_FLEET__PULL_TO": text})
        assert "give `all`, `one` or ids of nodes" in line


def test_the_file_in_the_working_directory_is_read_by_itself() -> None:
    Path("sollol.yaml").write_text("queue: {max_length: 7}", encoding="utf-8")
    loaded = load({}, {})
    assert loaded.settings.queue.max_length == 7
    assert loaded.path == Path("sollol.yaml")


def test_the_environment_can_name_the_file_and_an_option_beats_it() -> None:
    Path("other.yaml").write_text("queue: {max_length: 8}", encoding="utf-8")
    env = {"SOLLOL_CONFIG": "other.yaml"}
    assert load({}, env).settings.queue.max_length == 8
    assert load({}, env, _write("")).settings.queue.max_length == 512


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("serv:\n  port: 1", "given.yaml:2: serv.port: did you mean server.port?"),
        ("server:\n  prot: 1", "given.yaml:2: server.prot: did you mean server.port?"),
        ("queue:\n  max_attempts: 1", "given.yaml:2: queue.max_attempts: did you mean upstream.max_attempts?"),
        ("zzz: 1", "given.yaml:1: zzz: no such setting; `sollol config show` lists all"),
        ("server: 5", "given.yaml:1: server: is a group; set one of its members, such as server.insecure"),
        ("server:\n  port: 1\n  port: 2", "given.yaml:3: server.port: given twice"),
        ("[1]", "given.yaml:1: expected groups of settings, such as server:"),
        ("server:\n  port: 70000", "given.yaml:2: server.port: Input should be less than or equal to 65535, got 70000"),
        ("a: [1\nb: 2", "given.yaml: line 2, column 2: expected ',' or ']', but got ':'"),
        ("a: b: c", "given.yaml: line 1, column 5: mapping values are not allowed here"),
        ("nodes: {url: x}", "given.yaml:1: nodes: expected a list of nodes"),
        ("nodes:\n  - enginee: x\n    url: a", "given.yaml:2: nodes[0].enginee: did you mean engine?"),
        ("nodes:\n  - a\n  - name: x", "given.yaml:3: nodes[1].url: Field required"),
        ("nodes:\n  - a\n  - url: http://u:canary@b", "given.yaml:3: nodes[1].url: credentials in a URL are refused; use api_key in sollol.yaml"),
        ("nodes:\n  - {url: a, api_key: 123}", "given.yaml:2: nodes[0].api_key: Input should be a valid string"),
        ("nodes: [a, 'http://a:11434/']", "given.yaml:1: nodes: http://a:11434 is listed twice"),
        ("nodes: [a/x, a/y]", "given.yaml:1: nodes: two nodes are called a:11434; give one another name"),
        ("nodes: ['localhost:11435']", "given.yaml:1: nodes: http://localhost:11435 is the address of this gateway itself"),
        ("queue: {timeout_s: .inf}", "given.yaml:1: queue.timeout_s: Input should be a finite number, got inf"),
        ("embedded: {model: ~no-such-user/m}", "given.yaml:1: embedded.model: the home directory is not known; give an absolute path"),
        ("discovery: {local_url: '127.0.0.1:11435'}", "given.yaml:1: discovery.local_url: is the address of this gateway itself"),
        ("server: {origins: [example.com]}", "given.yaml:1: server.origins[0]: String should match pattern '^(\\*|[a-z][a-z0-9+.-]*://[^/\\s]+)$', got 'example.com'"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line_with_its_place(file: str, expected: str) -> None:
    assert _errors(file=file) == (expected,)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SOLLOL_SERVR__PORT", "1", "did you mean SOLLOL_SERVER__PORT?"),
        ("SOLLOL_PORT", "1", "did you mean SOLLOL_SERVER__PORT?"),
        ("SOLLOL_NODE", "a", "did you mean SOLLOL_NODES?"),
        ("SOLLOL_ZZZ", "1", "no such setting; `sollol config show` lists all"),
        ("SOLLOL_LOG", "1", "is a group; set one of its members, such as SOLLOL_LOG__LEVEL"),
        ("SOLLOL_LOG__LEVEL", "loud", "Input should be 'debug', 'info', 'warning' or 'error', got 'loud'"),
        ("SOLLOL_QUEUE__TIMEOUT_S", "0", "Input should be greater than 0, got '0'"),
        ("SOLLOL_NODES", "[{", "not valid JSON: Expecting property name enclosed in double quotes at character 2"),
        ("SOLLOL_NODES", "ftp://a", "the URL must start with http:// or https://"),
        ("SOLLOL_CONFIG", "nowhere.yaml", "nowhere.yaml: no such file"),
        ("OLLAMA_HOST", "http://a:b", "the port must be a number from 1 to 65535"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_environment_is_one_line_with_the_variable(
    variable: str, value: str, expected: str
) -> None:
    (line,) = _errors(env={variable: value})
    place = f"environment: {variable}"
    assert line in {f"{place}: {expected}", f"{place}[0].url: {expected}"}


def test_a_mistake_on_the_command_line_is_one_line_with_the_setting() -> None:
    assert _errors(cli={"serv.port": "1", "server.port": "x"}) == (
        "command line: serv.port: did you mean server.port?",
        "command line: server.port: Input should be a valid integer, unable to parse string as an "
        "integer, got 'x'",
    )


def test_a_missing_file_is_an_error_when_it_was_asked_for() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, Path("nowhere.yaml"))
    assert caught.value.lines == ("command line: --config: nowhere.yaml: no such file",)


def test_a_file_that_cannot_be_read_as_text_is_an_error() -> None:
    Path("given.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, Path("given.yaml"))
    assert caught.value.lines[0].startswith("given.yaml: 'utf-8' codec can't decode")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, Path("."))
    assert caught.value.lines == (".: Is a directory",)


def test_all_mistakes_are_told_at_once_and_name_their_sources() -> None:
    lines = _errors({"log.level": "x"}, {"SOLLOL_QUEUE__MAX_LENGTH": "-1"}, "probe: {rise: 0}")
    assert [line.split(": ")[:2] for line in lines] == [
        ["environment", "SOLLOL_QUEUE__MAX_LENGTH"],
        ["given.yaml:1", "probe.rise"],
        ["command line", "log.level"],
    ]


def test_no_message_repeats_a_secret() -> None:
    file = "nodes: [{url: 'http://u:canary@a'}, {url: b, api_key: [canary]}, {url: 'c canary'}]"
    env = {"SOLLOL_NODES": "http://u:canary@a"}
    assert not any("canary" in line for line in (*_errors(file=file), *_errors(env=env)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu1"])
def test_other_machines_reach_the_gateway_only_when_asked_for(host: str) -> None:
    assert _errors(cli={"server.host": host}) == (
        f"command line: server.host: other machines reach {host}, and API keys are not available "
        "yet in this version: use loopback, a reverse proxy, or --insecure knowingly",
    )
    open_server = load_settings({"server.host": host, "server.insecure": True}, {}).server
    assert open_server.host == host


def test_variables_that_describe_a_service_called_sollol_are_not_settings() -> None:
    env = {
        "SOLLOL_PORT": "tcp://10.0.0.1:11435",
        "SOLLOL_SERVICE_HOST": "10.0.0.1",
        "SOLLOL_SERVICE_PORT_HTTP": "11435",
        "SOLLOL_PORT_11435_TCP_ADDR": "10.0.0.1",
        "SOLLOL_URL": "http://gateway",
        "SOLLOL_QUEUE__MAX_LENGTH": "",
    }
    assert load({}, env).sources == {}


def test_an_emptied_group_changes_nothing() -> None:
    assert load_settings({}, {}, _write("server:\nnodes:\nqueue: {max_length: }")) == Settings()


def test_variables_of_others_change_defaults() -> None:
    homes = {"XDG_CACHE_HOME": "/caches", "XDG_STATE_HOME": "/states"}
    loaded = load({}, {"OLLAMA_HOST": "0.0.0.0:9999", **homes})
    assert loaded.settings.discovery.local_url == "http://127.0.0.1:9999"
    assert loaded.settings.embedded.cache_dir == Path("/caches/sollol")
    assert loaded.settings.scheduling.state_file == Path("/states/sollol/estimates.json")
    assert loaded.sources["discovery.local_url"] == "environment OLLAMA_HOST"
    assert load({}, {"XDG_CACHE_HOME": "relative"}).sources == {}
    given = {"discovery.local_url": "gpu1"}
    assert load_settings(given, {"OLLAMA_HOST": "x"}).discovery.local_url == "http://gpu1:11434"


def test_nothing_is_kept_where_the_state_file_is_off() -> None:
    assert load_settings({"scheduling.state_file": ""}, {}).scheduling.state_file is None
    by_variable = load_settings({}, {"SOLLOL_SCHEDULING__STATE_FILE": "off"})
    assert by_variable.scheduling.state_file is None
    by_file = load_settings({}, {}, _write("scheduling: {state_file: off}"))
    assert by_file.scheduling.state_file is None


def test_discovery_never_finds_the_gateway_itself() -> None:
    assert load_settings({}, {"OLLAMA_HOST": "localhost:11435"}).discovery == Settings().discovery
    on_ollamas_port = load_settings({"server.port": 11434}, {})
    assert not on_ollamas_port.discovery.local


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("gpu1", "http://gpu1:11434"),
        (" GPU1:80/ ", "http://gpu1:80"),
        ("https://a.example/base/", "https://a.example:443/base"),
        ("http://[::1]", "http://[::1]:11434"),
        ("[2001:DB8::1]:5", "http://[2001:db8::1]:5"),
    ],
)
def test_node_urls_are_completed(written: str, url: str) -> None:
    node = NodeSettings.model_validate(written)
    assert node.url == url
    assert node.id == url.partition("://")[2].partition("/")[0]
    assert normalize_url(url) == url


@pytest.mark.parametrize(
    "written",
    [
        "",
        "http://",
        "a b",
        "a?q=1",
        "a#f",
        "a:0",
        "a:65536",
        "a:x",
        "http://[x]",
        "a,b",
        "-a",
        "@a",
    ],
)
def test_what_is_no_node_url_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"URL|port|IPv6|address|Expected"):
        normalize_url(written)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_value_error_and_completing_twice_changes_nothing(text: str) -> None:
    try:
        url = normalize_url(text)
    except ValueError:
        return
    assert normalize_url(url) == url


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:5", "http://[::1]:5"),
        ("http://gpu1", "http://gpu1:80"),
        ("https://gpu1", "https://gpu1:443"),
        ('"gpu1"', "http://gpu1:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(written: str, url: str) -> None:
    assert ollama_host_url(written) == url


@pytest.mark.parametrize(
    ("url", "host", "port", "is_same"),
    [
        ("http://127.0.0.1:5", "localhost", 5, True),
        ("http://localhost:5", "0.0.0.0", 5, True),
        ("http://gpu1:5", "gpu1", 5, True),
        ("http://gpu1:5", "127.0.0.1", 5, False),
        ("http://127.0.0.1:5", "127.0.0.1", 6, False),
        ("http://127.0.0.1:5", "127.0.0.1", 0, False),
    ],
)
def test_the_gateways_own_address_is_recognised(
    url: str, host: str, port: int, is_same: bool
) -> None:
    assert is_same_server(url, host, port) is is_same


def test_engines_are_those_of_the_code_and_auto() -> None:
    engines = get_args(NodeSettings.model_fields["engine"].annotation)
    assert set(engines) == {"auto", *Engine}
    assert NodeSettings(url="a").known_engine is None
    assert NodeSettings(url="a", engine="ollama").known_engine is Engine.OLLAMA


def test_every_setting_explains_itself() -> None:
    groups: list[type[Group]] = Group.__subclasses__()
    for model in groups:
        for name, field in model.model_fields.items():
            is_group = isinstance(field.annotation, type) and issubclass(field.annotation, Group)
            assert field.description or is_group, f"{model.__name__}.{name}"


def test_the_nearest_name_is_suggested() -> None:
    assert suggestion("embeded.slot", setting_names()) == "embedded.slots"
    assert suggestion("xyzzy", setting_names()) is None


def test_the_file_to_begin_with_changes_nothing_even_when_uncommented() -> None:
    assert load_settings({}, {}, _write(template())) == Settings()
    uncommented = "\n".join(
        line.replace("  #", "  ", 1) if line.startswith("  #") and line[3] != " " else line
        for line in template().splitlines()
    )
    loaded = load({}, {}, _write(uncommented))
    assert loaded.settings == Settings()
    assert set(loaded.sources) == {*setting_names()} - {
        "nodes", "models", "embedded.threads", "embedded.binary", "embedded.model", "fleet.push_from",
        "fleet.cloud_node", "sharding.store", "sharding.memory_gb", "sharding.local_worker_gb",
        "sharding.threads", "sharding.binary", "queue.max_in_flight_per_caller", "scheduling.keep_alive",
    }  # fmt: skip


def test_its_example_of_nodes_is_valid() -> None:
    text = "\n".join(
        line.removeprefix("#")
        for line in template().splitlines()
        if not line.startswith("# ") or line.startswith("#  ")
    )
    assert [node.id for node in load_settings({}, {}, _write(text)).nodes] == [
        "gpu1:11434",
        "gpu2:11434",
        "gpu3",
    ]


def test_the_settings_in_force_show_sources_and_hide_keys() -> None:
    file = _write("nodes:\n  - {url: a, api_key: secret-1}\nserver:\n  port: 5")
    text = effective_yaml(load({"log.level": "error"}, {"SOLLOL_QUEUE__TIMEOUT_S": "2"}, file))
    assert "secret-1" not in text
    assert "  port: 5  # given.yaml:4\n" in text
    assert "  level: error  # command line\n" in text
    assert "  timeout_s: 2  # environment SOLLOL_QUEUE__TIMEOUT_S\n" in text
    assert "  host: 127.0.0.1  # default\n" in text
    assert "# given.yaml:1\nnodes:\n- url: http://a:11434\n" in text
    again = load_settings({}, {}, _write(text))
    assert (again.server.port, again.nodes[0].url) == (5, "http://a:11434")


def test_discovery_is_read_as_people_write_it() -> None:
    env = {
        "SOLLOL_DISCOVERY__DNS": "ollama.internal, gpus:8080",
        "SOLLOL_DISCOVERY__SCAN": "192.168.1.7/24,127.0.0.0/29",
        "SOLLOL_DISCOVERY__SCAN_PORTS": "11434,8080",
        "SOLLOL_DISCOVERY__MDNS": "true",
    }
    discovery = load_settings({}, env).discovery
    assert discovery.dns == ("ollama.internal:11434", "gpus:8080")
    assert discovery.scan == ("192.168.1.0/24", "127.0.0.0/29")
    assert discovery.scan_ports == (11434, 8080)
    assert discovery.mdns


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("dns", "http://gpu1", "expected host or host:port"),
        ("scan", "10.0.0.0/19", "10.0.0.0/19 has over 4096 addresses; the largest scanned is a /20"),
        ("scan", "8.8.8.0/24", "8.8.8.0/24 is not private; only loopback and private networks are scanned"),
        ("scan", "fd00::/64", "fd00::/64 has over 4096 addresses; the largest scanned is a /20"),
        ("scan", "everything", "'everything' does not appear to be an IPv4 or IPv6 network"),
    ],
)  # fmt: skip
def test_what_discovery_will_not_do_is_an_error(name: str, value: str, text: str) -> None:
    (line,) = _errors(cli={f"discovery.{name}": value})
    assert line == f"command line: discovery.{name}[0]: {text}"


def test_mdns_without_its_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    (line,) = _errors(cli={"discovery.mdns": "true"})
    text = "needs the package zeroconf: pip install zeroconf"
    assert line == f"command line: discovery.mdns: {text}"


def test_moving_discovery_away_from_the_gateway_itself_keeps_the_rest_of_it() -> None:
    env = {"OLLAMA_HOST": "127.0.0.1:11435"}
    discovery = load_settings({"discovery.dns": "gpus"}, env).discovery
    assert (discovery.local_url, discovery.dns) == ("http://127.0.0.1:11434", ("gpus:11434",))


MODELS = """
models:
  llama3.1:70b:
    pin: [big]
    fallback: [llama3.1:8b]
  gpt-4o:
    alias_of: llama3.1:70b
"""


def test_what_holds_for_models_is_read_from_the_file_and_as_json() -> None:
    from_file = load_settings({}, {}, _write(MODELS)).models
    text = (
        '{"llama3.1:70b": {"pin": "big", "fallback": "llama3.1:8b"}, '
        '"gpt-4o": {"alias_of": "llama3.1:70b"}}'
    )
    assert load_settings({}, {"SOLLOL_MODELS": text}).models == from_file
    assert load_settings({"models": text}, {}).models == from_file
    assert from_file["llama3.1:70b"].pin == ("big",)
    assert from_file["llama3.1:70b"].fallback == ("llama3.1:8b",)
    assert from_file["gpt-4o"].alias_of == "llama3.1:70b"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "models: {a: {alias_of: b}, b: {alias_of: A}}",
            "1: models: aliases in a loop: a -> b -> A",
        ),
        ("models: {a: {alias_of: a}}", "1: models: aliases in a loop: a -> a"),
        (
            "models:\n a: {alias_of: b, pin: [c]}",
            "2: models.a: an alias cannot be pinned; pin the model that it stands for",
        ),
        ("models:\n a:\n  fallback: ['a:latest']", "1: models: a is its own fallback"),
        ("models: {a: {}, 'A:latest': {}}", "1: models: a and A:latest are one model"),
        ("models:\n a:\n  pins: [x]", "3: models.a.pins: did you mean pin?"),
        ("models:\n a:\n  xyzzy: 1", "3: models.a.xyzzy: a model has no such setting"),
        (
            "nodes:\n- url: a\n  weight: 0",
            "3: nodes[0].weight: Input should be greater than 0, got 0",
        ),
        (
            "scheduling:\n  keep_alive: soon",
            '2: scheduling.keep_alive: time: invalid duration "soon"',
        ),
        (
            "scheduling:\n  keep_alive_overrides: true",
            "2: scheduling.keep_alive_overrides: needs keep_alive",
        ),
        ("queue:\n  max_priority: 4", "2: queue.max_priority: is below default_priority"),
    ],
)
def test_a_mistake_about_models_and_scheduling_is_told(file: str, expected: str) -> None:
    assert _errors(file=file) == (f"given.yaml:{expected}",)


def test_models_that_are_no_json_are_told() -> None:
    assert _errors(env={"SOLLOL_MODELS": "{"}) == (
        "environment: SOLLOL_MODELS: not valid JSON: Expecting property name enclosed in double "
        "quotes at character 1",
    )


@pytest.mark.parametrize("written", ["10m", "-1", "90", "1.5", "-1h30m"])
def test_keep_alive_is_what_ollama_takes(written: str) -> None:
    file = _write(f"scheduling: {{keep_alive: {written}}}")
    assert load_settings({}, {}, file).scheduling.keep_alive == written


def test_policies_are_those_of_the_scheduler() -> None:
    named = get_args(SchedulingSettings.model_fields["policy"].annotation)
    assert set(named) == set(POLICIES)


def test_memory_of_a_node_is_given_in_gigabytes() -> None:
    assert NodeSettings(url="a").memory_bytes is None
    assert NodeSettings(url="a", memory_gb=1.5).memory_bytes == 3 * 1024**3 // 2


def test_the_settings_in_force_show_models_as_they_were_given() -> None:
    shown = yaml.safe_load(effective_yaml(load({}, {}, _write(MODELS))))
    assert shown["models"] == yaml.safe_load(MODELS)["models"]


def test_its_example_of_models_is_valid() -> None:
    example = template().partition("#models:")[2]
    lines = example.splitlines()[1:]
    listed = itertools.takewhile(lambda line: line.startswith("#  "), lines)
    text = "models:\n" + "\n".join(line[1:] for line in listed)
    assert set(load_settings({}, {}, _write(text)).models) == {"llama3.1:70b", "gpt-4o"}
