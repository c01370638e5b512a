"""The ``sollol`` command against a real HTTP server: what it prints and how it exits."""

import io
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from sollol import __version__
from sollol.cli.checks import check_embedded, check_pins, check_port, check_python
from sollol.cli.environment import read_settings
from sollol.cli.main import app, main
from sollol.settings import EmbeddedSettings, ServerSettings, Settings

NODES: dict[str, Any] = {
    "nodes": [
        {
            "id": "gpu1:11434", "url": "http://gpu1:11434", "engine": "ollama",
            "state": "healthy", "version": "0.12.3", "slots": 4, "in_flight": 1,
            "models": ["llama3.2:latest"],
            "outvoted": [],
            "resident": [{"name": "llama3.2:latest", "digest": "a80c4f17acd5ff", "size_bytes": 4, "vram_bytes": 4}],
            "last_error": "",
        },
        {
            "id": "[::1]:8080", "url": "http://[::1]:8080", "engine": "llama_server",
            "state": "unhealthy", "version": "", "slots": 1, "in_flight": 0, "models": [],
            "resident": [], "last_error": "connection refused\x1b[31m",
        },
    ],
    "queue": {"length": 3, "max_length": 512},
}  # fmt: skip
TAGS = {
    "models": [
        {"name": "llama3.2", "size": 2019393189, "digest": "a80c4f17acd5", "modified_at": "2020-01-01T00:00:00Z"},
        {"name": "other:1b", "size": 5, "digest": "b", "modified_at": "?"},
    ]
}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path, (404, "404 page not found"))
        self._send(status, body if isinstance(body, str) else json.dumps(body))

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        self.server.asked.append(json.loads(self.rfile.read(length)))
        if isinstance(self.server.chat, str):
            self._send(404, self.server.chat)
            return
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for record in self.server.chat:
            line = json.dumps(record).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            self.server.hold.wait(30)
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """A gateway as far as the commands see one; ``hold`` cleared makes an answer wait."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, object]] = {
            "/sollol/v1/nodes": (200, NODES),
            "/api/tags": (200, TAGS),
        }
        self.chat: str | list[Mapping[str, Any]] = [_said("Hel"), _said("lo", done=True)]
        self.asked: list[dict[str, Any]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that leave: some tests do that."""


def _said(text: str, *, done: bool = False, **fields: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, **fields}, "done": done}


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hold.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SOLLOL_", "OLLAMA_"))]:
        monkeypatch.delenv(name)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, output, errors."""

    def run_command(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run_command


def _closed_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


# --- nodes, models, ps ---------------------------------------------------------------------------


def test_nodes_are_a_table(run: Run, server: _Server) -> None:
    code, out, _ = run("nodes", "--url", server.url)
    header, first, second, _, queue = out.splitlines()
    assert code == 0
    assert header.split() == [
        "NODE",
        "ENGINE",
        "VERSION",
        "STATE",
        "BUSY",
        "MODELS",
        "IN",
        "MEMORY",
        "PROBLEM",
    ]
    assert first.split() == [
        "gpu1:11434",
        "ollama",
        "0.12.3",
        "healthy",
        "1/4",
        "1",
        "llama3.2:latest",
    ]
    assert second.split() == [
        "[::1]:8080",
        "llama_server",
        "unhealthy",
        "0/1",
        "0",
        "connection",
        "refused[31m",
    ]
    assert queue == "Waiting: 3 of at most 512"


def test_nodes_as_json_are_what_the_gateway_says(
    run: Run, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLLOL_URL", server.url.removeprefix("http://"))
    code, out, _ = run("nodes", "--json")
    assert (code, json.loads(out)) == (0, NODES)


def test_the_gateway_is_looked_for_where_the_settings_put_it(
    run: Run, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLLOL_SERVER__PORT", server.url.rpartition(":")[2])
    code, out, _ = run("nodes", "--json")
    assert (code, json.loads(out)) == (0, NODES)


def test_a_double_is_told_where_there_is_no_other_problem(run: Run, server: _Server) -> None:
    doubled = {**NODES["nodes"][0], "duplicate_of": "gpu0"}
    server.answers["/sollol/v1/nodes"] = (200, {"nodes": [doubled]})
    assert "the same server as gpu0, probably" in run("nodes", "--url", server.url)[1]


def test_a_gateway_without_nodes_says_what_to_do(run: Run, server: _Server) -> None:
    server.answers["/sollol/v1/nodes"] = (200, {"nodes": []})
    expected = "The gateway has no nodes. Add one with: sollol nodes add URL\n"
    assert run("nodes", "--url", server.url) == (0, expected, "")


def test_models_show_the_nodes_that_have_them(run: Run, server: _Server) -> None:
    code, out, _ = run("models", "--url", server.url)
    _, first, second = out.splitlines()
    assert code == 0
    assert first.split()[:4] == ["llama3.2", "a80c4f17acd5", "2.02", "GB"]
    assert first.split()[5:] == ["days", "ago", "gpu1:11434"]
    assert second.split() == ["other:1b", "b", "5", "B", "?"]
    code, out, _ = run("models", "--url", server.url, "--json")
    assert [model["nodes"] for model in json.loads(out)["models"]] == [["gpu1:11434"], []]


def test_models_mark_nodes_with_another_digest(run: Run, server: _Server) -> None:
    first, second = NODES["nodes"]
    nodes = [first, {**second, "models": ["llama3.2"], "outvoted": ["llama3.2"]}]
    server.answers["/sollol/v1/nodes"] = (200, {**NODES, "nodes": nodes})
    _, out, _ = run("models", "--url", server.url)
    assert out.splitlines()[1].endswith("gpu1:11434, [::1]:8080 (another digest)")


def test_ps_shows_where_models_lie_and_how_long(run: Run, server: _Server) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=4, seconds=30)).isoformat()
    entry = {"name": "llama3.2:latest", "digest": "a80c4f17acd5ff", "size": 400, "size_vram": 100,
             "context_length": 4096, "expires_at": later}  # fmt: skip
    server.answers["/api/ps"] = (200, {"models": [entry]})
    code, out, _ = run("ps", "--url", server.url)
    assert code == 0
    assert out.splitlines()[1].split() == (
        [
            "llama3.2:latest",
            "a80c4f17acd5",
            "400",
            "B",
            "75%/25%",
            "CPU/GPU",
            "4096",
            "in",
            "4",
            "minutes",
            "gpu1:11434",
        ]
    )
    code, out, _ = run("ps", "--url", server.url, "--json")
    assert json.loads(out) == {"models": [{**entry, "nodes": ["gpu1:11434"]}]}


@pytest.mark.parametrize(
    ("command", "path", "text"),
    [
        ("models", "/api/tags", "No node has a model.\n"),
        ("ps", "/api/ps", "No model is in memory.\n"),
    ],
)
def test_an_empty_list_is_said_in_words(
    run: Run, server: _Server, command: str, path: str, text: str
) -> None:
    server.answers[path] = (200, {"models": None})
    assert run(command, "--url", server.url) == (0, text, "")


def test_models_of_a_plain_ollama_are_listed_without_nodes(run: Run, server: _Server) -> None:
    del server.answers["/sollol/v1/nodes"]
    code, out, _ = run("models", "--url", server.url, "--json")
    assert (code, json.loads(out)) == (0, TAGS)


# --- what can go wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["nodes"], ["models"], ["ps"], ["chat", "m", "hello"]])
def test_no_gateway_is_one_line_and_exit_1(run: Run, command: list[str]) -> None:
    url = f"http://127.0.0.1:{_closed_port()}"
    expected = f"No gateway answers at {url}. Start one with: sollol serve\n"
    assert run(*command, "--url", url) == (1, "", expected)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (503, {"error": "no node is up"}, "Error: no node is up"),
        (500, "oops", "Error: the gateway answered with status 500."),
        (200, "oops", "Error: the gateway's answer is not JSON."),
    ],
)
def test_an_error_of_the_gateway_is_one_line_and_exit_1(
    run: Run, server: _Server, status: int, body: object, text: str
) -> None:
    server.answers["/api/tags"] = (status, body)
    assert run("models", "--url", server.url) == (1, "", f"{text}\n")


def test_another_server_at_the_address_is_recognised(run: Run, server: _Server) -> None:
    server.answers.clear()
    expected = f"{server.url} answers, but is not a SOLLOL gateway.\n"
    assert run("nodes", "--url", server.url) == (1, "", expected)


@pytest.mark.parametrize("url", ["ftp://x", "http://a:b"])
def test_what_is_no_url_is_refused(run: Run, url: str) -> None:
    assert run("nodes", "--url", url) == (2, "", f"{url} is not an http(s) URL.\n")


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--prot", "1"], ["chat"]])
def test_wrong_usage_exits_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: sollol" in err


# --- chat ----------------------------------------------------------------------------------------


def test_chat_streams_one_answer(run: Run, server: _Server) -> None:
    answer = run("chat", "m", "Say hello", "--system", "Be brief", "--url", server.url)
    assert answer == (0, "Hello\n", "")
    assert server.asked == [
        {
            "model": "m",
            "stream": True,
            "messages": [
                {"role": "system", "content": "Be brief"},
                {"role": "user", "content": "Say hello"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "question"), [([], "from a pipe"), (["Sum up:"], "Sum up:\n\nfrom a pipe")]
)
def test_chat_reads_piped_text(
    run: Run, server: _Server, arguments: list[str], question: str
) -> None:
    code, *_ = run("chat", "m", *arguments, "--url", server.url, stdin="from a pipe\n")
    assert (code, server.asked[0]["messages"]) == (0, [{"role": "user", "content": question}])


def test_chat_with_nothing_to_ask_exits_2(run: Run, server: _Server) -> None:
    expected = "Nothing to ask: give a prompt, or pipe text in.\n"
    assert run("chat", "m", "--url", server.url) == (2, "", expected)


def test_chat_leaves_thoughts_and_control_characters_out_of_piped_answers(
    run: Run, server: _Server
) -> None:
    server.chat = [_said("", thinking="hm"), _said("a\x1b]0;b\x07\tc\n", done=True)]
    assert run("chat", "m", "hi", "--url", server.url) == (0, "a]0;b\tc\n\n", "")


@pytest.mark.parametrize(
    ("chat", "out", "text"),
    [
        ('{"error":"model \'m\' not found"}', "", "Error: model 'm' not found"),
        ([_said("Hel"), {"error": "node lost"}], "Hel\n", "Error: node lost"),
        ([_said("Hel")], "Hel\n", "Error: the answer ended before it was complete."),
    ],
)
def test_chat_says_why_an_answer_is_missing(
    run: Run, server: _Server, chat: str | list[Mapping[str, Any]], out: str, text: str
) -> None:
    server.chat = chat
    assert run("chat", "m", "hi", "--url", server.url) == (1, out, f"{text}\n")


class _Terminal:
    """A child process on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._screen, inside = pty.openpty()
        self._unread = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sollol", *arguments],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored under `&`
            env={
                **os.environ, "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path),
                "SOLLOL_SCHEDULING__STATE_FILE": "off",
            },
        )  # fmt: skip
        os.close(inside)

    def __enter__(self) -> "_Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._screen)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self._unread:
            ready, _, _ = select.select(
                [self._screen], [], [], max(0.0, deadline - time.monotonic())
            )
            assert ready, f"{text!r} is not in {self._unread!r}"
            self._unread += os.read(self._screen, 4096).decode()
        self._unread = self._unread.partition(text)[2]


def test_ctrl_c_stops_the_answer_but_not_the_talk(server: _Server) -> None:
    server.hold.clear()
    with _Terminal("chat", "m", "--url", server.url) as terminal:
        terminal.read_until(">>> ")
        terminal.type("one\n")
        terminal.read_until("Hel")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("(stopped)")
        terminal.read_until(">>> ")
        server.hold.set()
        terminal.type("two\n")
        terminal.read_until("Hello")
        terminal.read_until(">>> ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.type("\n")  # readline looks at a signal that came just before its wait only now
        terminal.read_until("/bye or Ctrl-D leaves")
        server.chat = '{"error": "gone"}'
        terminal.type("three\n")
        terminal.read_until("Error: gone")
        terminal.type("/bye\n")
        assert terminal.process.wait(10) == 0
    assert [message["content"] for message in server.asked[1]["messages"]] == ["one", "Hel", "two"]
    assert len(server.asked[2]["messages"]) == 5


def test_ctrl_c_ends_a_single_answer_quietly_with_130(server: _Server) -> None:
    server.hold.clear()
    with _Terminal("chat", "m", "hi", "--url", server.url) as terminal:
        terminal.read_until("Hel")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(10) == 130


# --- serve, config, doctor -----------------------------------------------------------------------


def test_serve_with_wrong_settings_exits_2_without_a_traceback(run: Run) -> None:
    code, out, err = run("serve", "--host", "0.0.0.0", "--set", "serv.port=1", "--port", "0")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "command line: serv.port: did you mean server.port?",
        "command line: server.host: other machines reach 0.0.0.0, and API keys are not available "
        "yet in this version: use loopback, a reverse proxy, or --insecure knowingly",
    ]
    assert run("serve", "--set", "port") == (
        2, "", "command line: --set port: write it as group.name=value\n",
    )  # fmt: skip


def test_options_win_over_assignments_and_the_last_assignment_counts() -> None:
    assignments = ["server.port=1", "queue.max_length=1", "queue.max_length = 2"]
    settings = read_settings(None, assignments, {"server.port": 3, "log.level": None}).settings
    assert (settings.server.port, settings.queue.max_length) == (3, 2)


def test_options_of_serve_show_the_defaults_of_the_settings() -> None:
    defaults = {
        "host": Settings().server.host,
        "port": str(Settings().server.port),
        "log_level": Settings().log.level,
        "log_format": Settings().log.format,
    }
    root: Any = typer.main.get_command(app)
    shown = {p.name: p.show_default for p in root.commands["serve"].params}
    assert {name: shown[name] for name in defaults} == defaults


def test_config_shows_values_and_sources(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLLOL_NODES", '[{"url": "a", "api_key": "secret-1"}]')
    code, out, _ = run("config", "show", "--set", "server.port=5")
    assert code == 0
    assert "  port: 5  # command line\n" in out
    assert yaml.safe_load(out)["server"]["port"] == 5
    code, as_json, _ = run("config", "show", "--json")
    assert json.loads(as_json)["sources"] == {"nodes": "environment SOLLOL_NODES"}
    assert "secret-1" not in out + as_json


def test_config_init_writes_a_file_that_config_path_finds(run: Run, tmp_path: Path) -> None:
    assert run("config", "path") == (
        1, "", "No settings file is read. Begin one with: sollol config init\n",
    )  # fmt: skip
    assert run("config", "init") == (0, "Wrote sollol.yaml.\n", "")
    assert run("config", "path") == (0, f"{tmp_path}/sollol.yaml\n", "")
    expected = "sollol.yaml exists. Replace it with: --force\n"
    assert run("config", "init") == (1, "", expected)
    assert run("config", "init", "--force")[0] == 0
    assert run("config", "init", "no/where.yaml")[0] == 1
    assert run("config", "init", "-")[1] == Path("sollol.yaml").read_text(encoding="utf-8")


def test_doctor_tells_what_answers(run: Run, server: _Server) -> None:
    server.answers = {
        "/api/version": (200, {"version": "0.12.3"}),
        "/api/tags": (200, {"models": []}),
        "/api/ps": (200, {"models": []}),
        "/": (200, "Ollama is running"),
    }
    lost = _closed_port()
    settings = [f"nodes={server.url},127.0.0.1:{lost}", "discovery.local=false", "server.port=0"]
    code, out, _ = run("doctor", *(part for setting in settings for part in ("--set", setting)))
    host = server.url.removeprefix("http://")
    assert code == 0
    assert f"ok    node {host}: ollama 0.12.3, models: 0\n" in out
    assert f"warn  node 127.0.0.1:{lost}: no answer at http://127.0.0.1:{lost}: " in out


def test_doctor_fails_when_something_cannot_work(run: Run) -> None:
    code, out, _ = run("doctor", "--set", "server.prot=1")
    assert code == 1
    assert "command line: server.prot: did you mean server.port?" in out
    nothing = ("--set", "embedded.enabled=false", "--set", "discovery.local=false", "--json")
    code, out, _ = run("doctor", *nothing, "--set", "server.port=0")
    assert code == 1
    failed = [check for check in json.loads(out)["checks"] if check["status"] == "fail"]
    assert [check["subject"] for check in failed] == ["embedded node"]


def test_a_port_in_use_is_fine_only_if_a_gateway_has_it(server: _Server) -> None:
    settings = ServerSettings(port=server.server_address[1])
    assert check_port(settings).status == "ok"
    server.answers.clear()
    assert check_port(settings).status == "fail"
    assert check_port(ServerSettings(port=0)).status == "ok"


def test_an_old_python_fails() -> None:
    assert check_python((3, 10, 9)).status == "fail"
    assert check_python((3, 13, 0)).status == "ok"


@pytest.mark.parametrize(("is_needed", "status"), [(True, "fail"), (False, "warn")])
def test_a_processor_without_avx2_matters_when_the_embedded_node_does(
    tmp_path: Path, is_needed: bool, status: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t: sse avx\n", encoding="utf-8")
    checks = check_embedded(EmbeddedSettings(), cpuinfo, is_needed=is_needed)
    assert {c.subject: c.status for c in checks}["processor"] == status
    own = EmbeddedSettings(binary=tmp_path / "none")
    checks = check_embedded(own, cpuinfo, is_needed=is_needed)
    assert {c.subject: c.status for c in checks}["llama.cpp"] == status


# --- start ---------------------------------------------------------------------------------------


def test_help_and_version(run: Run) -> None:
    assert run("--version") == (0, f"sollol {__version__}\n", "")
    code, out, _ = run("serve", "-h")
    assert code == 0
    assert "sollol serve --node gpu1" in out


def test_the_command_starts_without_the_heavy_packages() -> None:
    heavy = ["fastapi", "httpx", "pydantic_settings", "rich.table", "sollol.settings", "yaml"]
    code = f"import sys, sollol.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_doctor_warns_of_pins_to_nodes_that_are_not_listed() -> None:
    settings = Settings.model_validate(
        {
            "nodes": ["gpu1", {"url": "gpu2", "name": "two"}],
            "models": {"m": {"pin": ["gpu1:11434", "two", "three", "embedded"]}, "n": {}},
        }
    )
    (check,) = check_pins(settings)
    assert (check.status, check.subject) == ("warn", "model m")
    assert check.finding == "pinned to three, which is not listed"
