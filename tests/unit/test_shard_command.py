"""The coordinator's command line, its chat template, and how its ends and loads are told."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sollol.bench.model_kinds import dense
from sollol.sharding.command import Launch, links, server_arguments
from sollol.sharding.ending import MAX_REASON_CHARACTERS, is_worker_lost, reason
from sollol.sharding.loading import (
    LoadProgress,
    LoadWatch,
    is_mapped,
    mapped_bytes_of,
    read_bytes_of,
)
from sollol.sharding.memory import RunOptions
from sollol.sharding.models import LocalModel
from sollol.sharding.template import Template, choose_template, knows_tools
from tests.llamacpp.shards import made_model, plan_over

WORKERS = ("10.0.0.2:50052", "10.0.0.3:50052")
LAUNCH = Launch("m", Path("/launch"), 2, {})
TEXTS = st.text('-ab\0\n, "\xe9', max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
NAMES = st.sampled_from(["temperature", "top_k", "seed", "stop", "num_predict", "num_ctx", "--rpc"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    return made_model(tmp_path_factory.mktemp("m") / "-m, n.gguf", dense())


def arguments(
    model: LocalModel,
    launch: Launch = LAUNCH,
    options: RunOptions = RunOptions(512),  # noqa: B008 - frozen
    workers: Sequence[str] = WORKERS,
    **stored: object,
) -> list[str]:
    changed = replace(model, stored=replace(model.stored, **stored))  # type: ignore[arg-type]
    return server_arguments(plan_over(model, workers, options), changed, launch)


def value(words: Sequence[str], option: str) -> str:
    assert words.count(option) == 1
    return words[words.index(option) + 1]


# -- placement ------------------------------------------------------------------------------------


def test_the_shares_are_named_in_their_order(model: LocalModel) -> None:
    plan = plan_over(model, WORKERS)
    words = server_arguments(plan, model, LAUNCH)
    assert value(words, "--rpc").split(",") == [share.worker.name for share in plan.shares]
    assert value(words, "--device") == "RPC0,RPC1"
    assert value(words, "--tensor-split") == plan.tensor_split
    assert value(words, "--n-gpu-layers") == str(len(model.facts.units))
    assert (value(words, "--fit"), value(words, "--log-verbosity")) == ("off", "4")


def test_the_devices_of_one_worker_share_its_units(model: LocalModel) -> None:
    plan = plan_over(model, WORKERS)
    first, second = (share.end - share.first for share in plan.shares)
    devices = {plan.shares[0].worker.name: 3, plan.shares[1].worker.name: 0}
    words = server_arguments(plan, model, replace(LAUNCH, devices=devices))
    *split, last = map(int, value(words, "--tensor-split").split(","))
    assert value(words, "--device") == "RPC0,RPC1,RPC2,RPC3"
    assert (sum(split), last) == (first, second)
    assert max(split) - min(split) <= 1


def test_without_workers_nothing_else_is_used(model: LocalModel) -> None:
    words = arguments(model, workers=())
    assert value(words, "--device") == "none"
    assert "--rpc" not in words


@pytest.mark.parametrize(
    ("options", "batch"),
    [(RunOptions(700, 3), "510"), (RunOptions(700), "512"), (RunOptions(256, 600), "600")],
)
def test_every_slot_has_its_context(model: LocalModel, options: RunOptions, batch: str) -> None:
    words = server_arguments(plan_over(model, (), options), model, LAUNCH)
    assert value(words, "--ctx-size") == str(options.context_length * options.slots)
    assert value(words, "--parallel") == str(options.slots)
    assert value(words, "--ubatch-size") == batch


def test_values_of_few_bits_need_flash_attention(model: LocalModel) -> None:
    few = arguments(model, options=RunOptions(512, 1, "q8_0", "q8_0"))
    assert value(few, "--flash-attn") == "on"
    assert "--flash-attn" not in arguments(model, options=RunOptions(512, 1, "q8_0", "bf16"))


# -- files and names -----------------------------------------------------------------------------


def test_files_and_names_are_values(model: LocalModel) -> None:
    words = arguments(
        model,
        launch=replace(LAUNCH, name="--help"),
        adapters=(Path("/store/a,b"), Path("/store/c")),
        projectors=(Path("-p"),),
    )
    assert value(words, "--alias") == "--help"
    assert value(words, "--model") == str(model.stored.parts[0])
    assert Path(value(words, "--mmproj")).is_absolute()
    assert "--no-mmproj-offload" in words
    assert value(words, "--lora") == "adapter-0.gguf,adapter-1.gguf"


def test_the_parts_of_a_model_are_linked_by_names(model: LocalModel) -> None:
    parts = (Path("/store/sha256-1"), Path("/store/sha256-2"))
    assert value(arguments(model, parts=parts), "--model") == "/launch/model-00001-of-00002.gguf"
    linked = links(replace(model.stored, parts=parts, adapters=(Path("/store/a,b"),)))
    assert linked == {
        "model-00001-of-00002.gguf": parts[0],
        "model-00002-of-00002.gguf": parts[1],
        "adapter-0.gguf": Path("/store/a,b"),
    }
    assert links(model.stored) == {}


def test_the_way_of_pooling_is_the_files_own(model: LocalModel) -> None:
    assert value(arguments(model), "--pooling") == "mean"
    assert "--pooling" not in arguments(replace(model, has_pooling=True))


# -- parameters ----------------------------------------------------------------------------------


def test_parameters_are_defaults(model: LocalModel) -> None:
    told = {"temperature": 0.5, "top_k": 3, "seed": 7, "stop": ["-x", "\n"], "num_ctx": 99}
    words = arguments(model, parameters=json.dumps(told | {"num_keep": 5}))
    assert (value(words, "--temp"), value(words, "--top-k")) == ("0.5", "3")
    assert (value(words, "--seed"), value(words, "--keep")) == ("7", "5")
    assert not {"99", "-x", "\n"} & set(words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 10_000,
        '{"temperature": true, "top_k": 1.5, "seed": "--help", "top_p": 1e300, "min_p": null}',
        '{"top_k": 99999999999, "num_predict": -7, "stop": {"a": 1}}',
        '{"stop": ["", 1, "a\\u0000b", null]}',
    ],
)
def test_parameters_that_make_no_sense_are_left_out(model: LocalModel, text: str) -> None:
    assert arguments(model, parameters=text) == arguments(model)


@given(st.dictionaries(NAMES, VALUES))
def test_no_parameter_becomes_an_option(model: LocalModel, told: dict[str, object]) -> None:
    try:
        text = json.dumps(told)
    except ValueError:
        return
    plain, words = arguments(model), arguments(model, parameters=text)
    assert words[: len(plain)] == plain
    added = words[len(plain) :]
    assert len(added) % 2 == 0
    known = {"--temp", "--top-k", "--seed", "--predict"}
    assert set(added[::2]) <= known
    assert not any("\0" in word for word in added)


# -- templates -----------------------------------------------------------------------------------

LLAMA3 = """{{ if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>{{ end }}<|start_header_id|>user<|end_header_id|>

{{ .Prompt }}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{{ .Response }}<|eot_id|>"""
CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PHI3 = "<|user|>\n{{ .Prompt }}<|end|>\n<|assistant|>\n{{ .Response }}<|end|>"
ZEPHYR = "<|user|>\n{{ .Prompt }}</s>\n<|assistant|>\n{{ .Response }}</s>"
LLAMA2 = "[INST] <<SYS>>{{ .System }}<</SYS>>\n\n{{ .Prompt }} [/INST]"
MISTRAL = "[AVAILABLE_TOOLS] {{ .Tools }}[/AVAILABLE_TOOLS][INST] {{ .Prompt }}[/INST]"
GEMMA = "<start_of_turn>user\n{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n"
DEEPSEEK = "<\uff5cUser\uff5c>{{ .Prompt }}<\uff5cAssistant\uff5c>"
ALPACA = "### Instruction:\n{{ .Prompt }}\n\n### Response:\n"
IN_FILE = {
    "llama3": "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] }}{% endfor %}",
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% endfor %}",
    "phi3": "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% endfor %}",
}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (LLAMA3, "llama3"),
        (CHATML, "chatml"),
        (PHI3, "phi3"),
        (ZEPHYR, "zephyr"),
        (ZEPHYR.replace("</s>", "\n"), "falcon3"),
        (f"[gMASK]<sop>{PHI3}", "chatglm4"),
        (LLAMA2, "llama2-sys"),
        (MISTRAL, "mistral-v3"),
        ("[INST] {{ .Prompt }} [/INST]", "mistral-v1"),
        (GEMMA, "gemma"),
        (DEEPSEEK, "deepseek3"),
        (ALPACA, "deepseek"),
        ("USER: {{ .Prompt }} ASSISTANT:", "vicuna"),
    ],
)
def test_a_template_shows_its_family(template: str, name: str) -> None:
    for in_file in ("", "{{ messages }}"):
        told = choose_template(in_file, template)
        assert told.built_in == name
        assert "knows no tools" in told.note


@pytest.mark.parametrize(
    ("template", "name"), [(LLAMA3, "llama3"), (CHATML, "chatml"), (PHI3, "phi3")]
)
def test_the_files_template_of_the_same_family_is_used(template: str, name: str) -> None:
    assert choose_template(IN_FILE[name], template) == Template()
    others = [text for other, text in IN_FILE.items() if other != name]
    assert [choose_template(text, template).built_in for text in others] == [name, name]


@pytest.mark.parametrize("template", [None, "", "{{ .Prompt }}", "{{- .Prompt -}}\n"])
def test_a_template_that_says_nothing_changes_nothing(template: str | None) -> None:
    assert (
        choose_template(IN_FILE["chatml"], template) == choose_template("", template) == Template()
    )


def test_an_unknown_family_is_told() -> None:
    with_own = choose_template(IN_FILE["chatml"], "Q: {{ .Prompt }} A:")
    without = choose_template("", "Q: {{ .Prompt }} A:")
    assert (with_own.built_in, without.built_in) == ("", "")
    assert "the one in its file" in with_own.note
    assert "ChatML" in without.note


@pytest.mark.parametrize(
    ("in_file", "of_ollama", "for_tools", "knows"),
    [
        ("{% if tools %}", None, "", True),
        (IN_FILE["chatml"] + "{% if tools %}", CHATML, "", True),
        ("{{ messages }}", None, "{{ tools }}", True),
        ("{{ messages }}", None, "", False),
        ("", None, "", False),
        ("{% if tools %}", LLAMA3, "", False),
        ("{% if tools %}", LLAMA3, "{{ tools }}", False),
    ],
)
def test_only_templates_of_the_file_know_tools(
    in_file: str, of_ollama: str | None, for_tools: str, knows: bool
) -> None:
    assert knows_tools(in_file, of_ollama, for_tools) is knows


def test_a_built_in_template_goes_without_jinja(model: LocalModel) -> None:
    """With it llama-server takes the name for the text of the template."""
    words = arguments(model, template=LLAMA3)
    assert value(words, "--chat-template") == "llama3"
    assert "--no-jinja" in words
    assert "--jinja" not in words
    assert "--jinja" in arguments(model)


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "advice", "is_lost"),
    [
        ("E RPC server version mismatch: 7.0.0", "same llama.cpp", True),
        ("0.00.020.038 E Failed to connect to 10.0.0.2:50052", "Start the RPC server there", True),
        ("x.cpp:498: Remote RPC server crashed or returned malformed response", "log of", True),
        ("RPC not supported in this build", "GGML_RPC", False),
        (
            "llama_model_load: error loading model: missing tensor 'x'",
            "Pull the model again",
            False,
        ),
        ("gguf_init: failed to open GGUF file 'x' (Permission denied)", "read the file", False),
        ("gguf_init: failed to open GGUF file 'x'", "is there, and that the user", False),
        (
            "gguf_init_from_file: failed to open GGUF file 'x' (No such file or directory)",
            "deleted meanwhile: pull the model again",
            False,
        ),
        ("alloc_tensor_range: failed to allocate RPC0 buffer", "lower memory_gb", False),
        ("GGML_ASSERT(a) failed", "fault of llama.cpp", False),
    ],
)
def test_an_end_has_advice_and_one_line(line: str, advice: str, is_lost: bool) -> None:
    told = reason(["load_tensors: x", line, "srv operator(): cleaning up before exit..."])
    assert advice in told
    assert "\n" not in told
    assert is_worker_lost([line]) == is_lost


@pytest.mark.parametrize(
    "line",
    [
        "cmn  common_init_: failed to load lora adapter '/x'",
        "mtmd_init_from_file: error: Failed to load CLIP model from /x",
    ],
)
def test_a_file_that_is_gone_is_not_said_to_be_damaged(line: str) -> None:
    gone = "gguf_init_from_file: failed to open GGUF file '/x' (No such file or directory)"
    assert "deleted meanwhile" in reason([gone, line])


def test_nothing_told_is_empty_and_long_lines_are_cut() -> None:
    assert reason([]) == reason(["all slots are idle"]) == ""
    long = f"error loading model: {'x' * 9999}"
    assert len(reason([long])) < MAX_REASON_CHARACTERS + 100


# -- loads ---------------------------------------------------------------------------------------


def test_progress_is_told_in_steps_with_what_is_left() -> None:
    told: list[LoadProgress] = []
    now = iter([0.0, 1.0, 2.0, 9.0])
    watch = LoadWatch(1000, told.append, lambda: next(now))
    for read in (None, 10, 15, 250, 250, 5000, 6000):
        watch.look(read)
    watch.finish()
    assert [one.share for one in told] == [0.01, 0.25, 0.99, 1.0]
    assert [one.eta_s for one in told] == [None, 6.0, pytest.approx(0.0909, abs=0.001), 0.0]


def test_what_was_read_is_told_by_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "io").write_text("rchar: 123\nwchar: 5\n")
    assert read_bytes_of(7, tmp_path) == 123
    assert read_bytes_of(8, tmp_path) is None
    (tmp_path / "7" / "io").write_text("other: 1\n")
    assert read_bytes_of(7, tmp_path) is None


def test_what_was_mapped_is_told_by_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 500 300 1 0 9 0\n")
    assert mapped_bytes_of(7, tmp_path) == 300 * os.sysconf("SC_PAGE_SIZE")
    assert mapped_bytes_of(8, tmp_path) is None
    (tmp_path / "7" / "statm").write_text("900 500\n")
    assert mapped_bytes_of(7, tmp_path) is None


@pytest.mark.parametrize(
    ("file_bytes", "cpu_layers", "expected"), [(25, 0, True), (26, 0, False), (1, 1, False)]
)
def test_a_file_is_mapped_where_it_disturbs_nobody(
    model: LocalModel, file_bytes: int, cpu_layers: int, expected: bool
) -> None:
    assert is_mapped(file_bytes, cpu_layers, available_bytes=100) == expected
    words = arguments(model, launch=replace(LAUNCH, is_mapped=expected))
    assert ("--no-mmap" in words) != expected
