"""A merged model answers as the adapter on its base does: as a folder, and as a GGUF file in both of our engines."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("gguf")
import gguf
import tiny
import torch
import transformers
from adapters import adapter
from safetensors.torch import load_file, save_file
from scored import scores

from cai.calls.model import Call
from cai.cli import chat as cli_chat
from cai.disk.hashes import cache_folder
from cai.disk.locks import take_lock
from cai.errors import CaiError, RunError, UnknownModel, UsageError
from cai.models import open_model
from cai.records import Message, Request, Sampling
from cai.weights import merge as merging
from cai.weights.bases import find_base
from cai.weights.embedded import STEM
from cai.weights.gguf_read import copy_metadata
from cai.weights.gguf_write import write_gguf
from cai.weights.merge import merge

openvino = pytest.mark.skipif(importlib.util.find_spec("openvino_genai") is None, reason="no openvino_genai")


def build(folder: Path, **changed: Any) -> Path:
    """A tiny Llama whose tokenizer cuts text as SmolLM's does."""
    from tokenizers import pre_tokenizers as cuts

    words = tiny.tokenizer()
    words.backend_tokenizer.pre_tokenizer = cuts.Sequence([cuts.Digits(True), cuts.ByteLevel(add_prefix_space=False)])
    words.pad_token = "<|endoftext|>"
    return tiny.written(folder, words, **changed)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return build(tmp_path / "base")


def change(folder: Path, name: str, edit: Callable[[Any], Any]) -> None:
    """Edit the weights of an adapter that have `name` in theirs."""
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({key: edit(weight) if name in key else weight for key, weight in weights.items()}, file)


def logits(folder: Path, **more: Any) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **more).eval()
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits.float()


# The folder


def test_a_merged_model_answers_as_the_adapter_on_its_base(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base))
    summary = merge(made, tmp_path / "out", tell=lambda line: None)
    tuned = logits(made)
    assert float((logits(tmp_path / "out") - tuned).abs().max()) < 1e-4
    assert float((logits(base) - tuned).abs().max()) > 1
    assert summary.difference is not None and summary.difference < 1e-4
    assert summary.dtype == "float32"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "merged.json"} <= names
    assert not names & {"adapter_config.json", "adapter_model.safetensors", "training.json"}
    facts = json.loads((tmp_path / "out" / "merged.json").read_text())
    assert facts["base"]["spec"] == str(base)
    assert facts["merged_from"]["training"]["identity"] == {"method": "dpo"}
    assert "merged.json" in names


def test_a_merged_model_has_the_adapters_own_tokenizer_and_is_a_base_like_any(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base))
    (made / "chat_template.jinja").write_text("{{ messages[0].content }}")
    merge(made, tmp_path / "out")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.chat_template == "{{ messages[0].content }}"
    assert find_base(str(tmp_path / "out")).adapter is None


def test_weights_stay_of_the_type_they_are_stored_in(base: Path, tmp_path: Path) -> None:
    narrow = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    narrow.save_pretrained(base)
    summary = merge(adapter(tmp_path / "lora", str(base), scale=0.1), tmp_path / "out")
    assert summary.dtype == "bfloat16"
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16
    assert summary.difference is not None and 0 < summary.difference < 0.5


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_weights_that_two_layers_share_are_not_merged(tmp_path: Path, scale: float) -> None:
    base = build(tmp_path / "base", tie_word_embeddings=True)
    made = adapter(tmp_path / "lora", str(base), target_modules=["lm_head", "q_proj"], scale=scale)
    with pytest.raises(CaiError, match=r"it adapts lm_head, whose weights two layers share; use the adapter as it is"):
        merge(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_modules_that_were_trained_whole_are_merged_exactly(tmp_path: Path, tied: bool) -> None:
    base = build(tmp_path / "base", tie_word_embeddings=tied)
    made = adapter(tmp_path / "lora", str(base), target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    change(made, "embed_tokens", lambda weight: weight + 0.1)
    assert (merge(made, tmp_path / "out").difference or 1) < 1e-4
    assert float((logits(tmp_path / "out") - logits(made)).abs().max()) < 1e-4
    assert float((logits(tmp_path / "out") - logits(base)).abs().max()) > 0.1


def test_a_merge_that_changes_the_answers_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = adapter(tmp_path / "lora", str(base))
    monkeypatch.setattr(merging, "MOST_EXACT", 1e-8)
    with pytest.raises(CaiError, match=r"the merged model would differ by [\d.]+e-0\d .*use the adapter as it is"):
        merge(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merged_reward_model_gives_the_same_rewards(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base), task_type="SEQ_CLS", modules_to_save=["score"])

    async def reward(folder: Path) -> Any:
        model = open_model(f"reward:{folder}")
        await model.start()
        try:
            said: tuple[Message, ...] = (
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Past the river."},
            )
            call = Call(Request("judge", said, score=("",)), "r", 0, 0, Sampling())
            return (await model.send(model.payload(call))).scores
        finally:
            await model.close()

    before = asyncio.run(reward(made))
    assert merge(made, tmp_path / "out").difference is None
    assert asyncio.run(reward(tmp_path / "out")) == pytest.approx(before, abs=1e-5)
    with pytest.raises(UsageError, match="is a reward model, which no GGUF file"):
        merge(made, tmp_path / "other", gguf=True)


def test_what_cannot_be_merged_is_told(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"base is a whole model: there is no adapter to merge \(--gguf writes it"):
        merge(base, tmp_path / "out")
    with pytest.raises(UsageError, match="there is no folder org/name: cai merge takes the folder of an adapter"):
        merge("org/name", tmp_path / "out")
    made = adapter(tmp_path / "lora", str(base))
    with pytest.raises(RunError, match="is not empty: choose another --out"):
        merge(made, base)
    monkeypatch.chdir(made)
    for out in ("merged", ".", made / "deep" / "merged", base / "merged"):
        with pytest.raises((UsageError, RunError), match=r"is inside the folder of the model itself|is not empty"):
            merge(made, out)
    (tmp_path / "new.gguf").write_text("")
    with pytest.raises(RunError, match=r"new\.gguf is there already"):
        merge(made, tmp_path / "new", gguf=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        merge(made, tmp_path / "file" / "out")


def test_an_empty_folder_takes_the_model_through_a_link_too(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    summary = merge(made, tmp_path / "link", gguf=True)
    assert (tmp_path / "empty" / "config.json").exists()
    assert summary.gguf is not None and summary.gguf.exists()
    assert not list((tmp_path / "empty").glob("*.gguf"))
    assert not list(tmp_path.glob(".*"))


def test_the_current_folder_is_not_replaced(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = adapter(tmp_path / "lora", str(base))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="is the folder you are in"):
        merge(made, ".")


def test_two_merges_into_one_folder_do_not_mix(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base))
    scratch = tmp_path / ".out.merging"
    (scratch / "model").mkdir(parents=True)
    (scratch / "model" / "other.safetensors").write_bytes(b"half a model")
    lock = take_lock(scratch / ".lock")
    with pytest.raises(RunError, match=r"is in use by another process"):
        merge(made, tmp_path / "out")
    lock.close()
    assert (scratch / "model" / "other.safetensors").exists()


def test_whatever_a_killed_merge_left_is_gone_before_the_next_one_writes(tmp_path: Path) -> None:
    scratch = tmp_path / ".out.merging"
    (scratch / "model").mkdir(parents=True)
    (scratch / "out.gguf").write_bytes(b"half a file")
    with merging._scratch(tmp_path / "out") as empty:
        assert [path.name for path in empty.iterdir()] == [".lock"]


KILLED = """
import os, signal, sys
from pathlib import Path
import gguf, peft, transformers.models.llama.modeling_llama
from cai.weights import merge as merging

def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

save = merging._save
def save_and_die(*args):
    save(*args)
    die()

adapter, *outs = sys.argv[1:]
for out in outs:
    merger = os.fork()  # so that the packages are imported once
    if not merger:
        if out.endswith("save"):
            merging._save = save_and_die
        elif out.endswith("gguf"):
            merging.write_gguf = die
        else:
            Path.rename = die
        merging.merge(adapter, out, gguf=True)
    print(os.waitstatus_to_exitcode(os.waitpid(merger, 0)[1]))
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_no_half_model_and_the_next_one_cleans_up(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(base))
    outs = [tmp_path / at / f"out-{at}" for at in ("save", "gguf", "rename")]
    for out in outs:
        out.parent.mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED, made, *outs], check=True, stdout=subprocess.PIPE)
    assert ended.stdout.split() == [str(-signal.SIGKILL).encode()] * 3
    for out in outs:
        assert [path.name for path in out.parent.iterdir()] == [f".{out.name}.merging"]
        merge(made, out, gguf=True)
        assert {path.name for path in out.parent.iterdir()} == {out.name, f"{out.name}.gguf"}
        assert torch.allclose(logits(out), logits(made), atol=1e-4)


def test_a_merge_whose_folder_cannot_be_put_into_place_leaves_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = adapter(tmp_path / "lora", str(base))
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "model":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(RunError, match="No space left on device"):
        merge(made, tmp_path / "out", gguf=True)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "lora"}


def test_a_full_disk_is_told_and_leaves_nothing(base: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # a limit on the size of files fails as a full disk does
    made = adapter(tmp_path / "lora", str(base))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write to .*out: \w.*; free some space") as caught:
            merge(made, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_not_merged(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "lora", str(build(tmp_path / "deep", num_hidden_layers=3)), record=False)
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    with pytest.raises(UnknownModel, match=r"has no place for .*layers\.2"):
        merge(made, tmp_path / "out")


def test_the_commands_merge_and_talk_with_what_they_made(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = adapter(tmp_path / "lora", str(base))
    cli_chat.merge(str(made), tmp_path / "out", json=True)
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "out")
    said = []
    for folder in (made, tmp_path / "out"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Where?\nAnd now?\n"))
        cli_chat.chat(str(folder), temperature=0.0, max_tokens=8)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()


def test_a_base_model_has_no_chat_template_to_talk_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no chat template"):
        cli_chat.chat(str(tiny.model(tmp_path / "base", None)))


# The GGUF file


def test_a_gguf_file_holds_the_merged_weights(base: Path, tmp_path: Path) -> None:
    summary = merge(adapter(tmp_path / "lora", str(base)), tmp_path / "out", gguf=True)
    assert summary.gguf == tmp_path / "out.gguf"
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in read.state_dict().items():
        assert torch.equal(weight.half(), whole[name].half()), name  # Q and K rows are back in their places, too


@openvino
@pytest.mark.parametrize("tied", [True, False])
def test_both_engines_score_the_file_alike(tmp_path: Path, tied: bool) -> None:
    base = build(tmp_path / "base", tie_word_embeddings=tied)
    merge(adapter(tmp_path / "lora", str(base), scale=0.3), tmp_path / "out", gguf=True)
    local = scores(f"local:{tmp_path / 'out.gguf'}")
    assert float((local - scores(f"hf:{tmp_path / 'out'}")).abs().max()) < 0.05  # F16 against float32
    halves = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float16)
    halves.save_pretrained(tmp_path / "out")  # read by hf: in float32 again: the same weights as in the file
    assert float((local - scores(f"hf:{tmp_path / 'out'}")).abs().max()) < 2e-3


@openvino
def test_local_asks_an_adapter_by_its_folder_as_its_base_and_it_would_answer(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    made = adapter(tmp_path / "lora", str(base), scale=0.3)
    local = scores(f"local:{made}")
    assert float((local - scores(f"hf:{base}")).abs().max()) > 0.5
    assert float((local - scores(f"hf:{made}")).abs().max()) < 0.05  # F16 against float32
    merge(made, tmp_path / "out", gguf=True)
    assert float((local - scores(f"local:{tmp_path / 'out.gguf'}")).abs().max()) < 1e-5
    model = open_model(f"local:{made}")
    assert model.name == f"lora@{find_base(str(made)).mark}" == open_model(f"hf:{made}").name
    [file] = (tmp_path / "cache").glob("*.gguf")
    whole = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(merging, "merge", None)  # it is merged once
        assert merging.merged_file(find_base(str(made))) == file
    file.write_bytes(whole[:-1])
    assert merging.merged_file(find_base(str(made))).read_bytes() == whole
    change(made, "lora_B", lambda weight: weight * 2)
    assert float((scores(f"local:{made}") - local).abs().max()) > 0.1  # another adapter in the same folder


@openvino
def test_adapters_that_local_cannot_ask_are_refused_with_what_can(base: Path, tmp_path: Path) -> None:
    reward = adapter(tmp_path / "reward", str(base), task_type="SEQ_CLS")
    with pytest.raises(UsageError, match=r"reward is a reward model"):
        open_model(f"local:{reward}")
    odd = adapter(tmp_path / "odd", str(build(tmp_path / "other", attention_bias=True)))
    with pytest.raises(UsageError, match=r"attention_bias True is not written as GGUF .*use hf:"):
        asyncio.run(open_model(f"local:{odd}").start())


def test_metadata_of_a_gguf_base_are_kept_and_a_base_that_is_gone_is_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    whole = build(tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(whole)
    write_gguf(model, transformers.AutoTokenizer.from_pretrained(whole), tmp_path / "small.gguf")
    made = adapter(tmp_path / "lora", str(tmp_path / "small.gguf"))
    (made / "chat_template.jinja").write_text("{{ messages[0].content }}")
    shutil.rmtree(tmp_path / "cache")
    summary = merge(made, tmp_path / "out", gguf=True)
    assert summary.base == str(tmp_path / "small.gguf")
    before, after = gguf.GGUFReader(tmp_path / "small.gguf"), gguf.GGUFReader(tmp_path / "out.gguf")
    assert [tensor.name for tensor in before.tensors] == [tensor.name for tensor in after.tensors]
    told = {name: field.contents() for name, field in after.fields.items()}
    assert told.pop("tokenizer.chat_template") == "{{ messages[0].content }}"
    assert told == {name: before.fields[name].contents() for name in told}
    assert told["tokenizer.ggml.pre"] == "smollm"


def test_of_a_gguf_base_the_frequencies_stay_and_other_tokens_are_refused(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    write_gguf(model, words, tmp_path / "plain.gguf")
    plain, source = gguf.GGUFReader(tmp_path / "plain.gguf"), tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    copy_metadata(plain, writer, {})
    stretch = torch.linspace(1, 8, 8).numpy()  # as in Llama 3.1, whose config does not tell them all
    for name, data in [("rope_freqs.weight", stretch), *((tensor.name, tensor.data) for tensor in plain.tensors)]:
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_gguf(model, words, tmp_path / "out.gguf", source)
    kept = {tensor.name: tensor.data.tolist() for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert kept["rope_freqs.weight"] == stretch.tolist()
    model.resize_token_embeddings(model.config.vocab_size + 1)
    with pytest.raises(UsageError, match=r"the model has other tokens than .*source\.gguf"):
        write_gguf(model, words, tmp_path / "other.gguf", source)


@pytest.mark.parametrize("begins", [True, False])
def test_a_gguf_file_says_whether_a_text_begins_with_a_token_of_its_own(
    base: Path, tmp_path: Path, begins: bool
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    words.bos_token = "<|endoftext|>"
    write_gguf(model, tiny.framed("<|endoftext|> $A", words) if begins else words, tmp_path / "x.gguf")
    told = gguf.GGUFReader(tmp_path / "x.gguf").fields["tokenizer.ggml.add_bos_token"]
    assert told.contents() is begins
    with pytest.raises(UsageError, match="more than a begin token around a text"):
        write_gguf(model, tiny.framed("$A <|im_end|>", words), tmp_path / "y.gguf")


def test_a_gguf_file_tells_control_tokens_from_words_and_has_a_name_for_every_row(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    words = transformers.AutoTokenizer.from_pretrained(base)
    write_gguf(model, words, tmp_path / "x.gguf")
    kinds = gguf.GGUFReader(tmp_path / "x.gguf").fields["tokenizer.ggml.token_type"].contents()
    control = {place for place, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL}
    assert control == {words.convert_tokens_to_ids(token) for token in tiny.SPECIAL}
    unused = len(kinds) - len(words)
    assert unused == 2 and kinds[-unused:] == [gguf.TokenType.UNUSED] * 2
    model.resize_token_embeddings(len(words) - 1)
    with pytest.raises(UsageError, match=r"the tokenizer has \d+ tokens and the model \d+: no GGUF file can be"):
        write_gguf(model, words, tmp_path / "y.gguf")


def test_a_whole_model_is_written_as_gguf_too(base: Path, tmp_path: Path) -> None:
    summary = merge(base, tmp_path / "out", gguf=True)
    assert summary.gguf is not None and summary.gguf.exists()
    assert summary.difference is None and summary.base is None
    out = tmp_path / "out"
    assert summary.lines() == [
        f"{out}: {base}, float32",
        f"{out}.gguf: the same as GGUF (F16): cai chat {out}.gguf",
    ]
    assert float((logits(tmp_path / "out") - logits(base)).abs().max()) == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
)
def test_a_llama_of_another_kind_is_not_written(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=f"a llama model with {told} is not written as GGUF"):
        merge(build(tmp_path / "base", **changed), tmp_path / "out", gguf=True)


def test_weights_that_f16_cannot_hold_are_told(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(CaiError, match=r"up_proj\.weight hold what F16 cannot"):
        write_gguf(model, transformers.AutoTokenizer.from_pretrained(base), tmp_path / "x.gguf")


@pytest.mark.slow
@openvino
def test_the_embedded_model_with_an_adapter_scores_alike_in_both_engines(tmp_path: Path) -> None:
    """Measured: 0.0015 on the same weights for replies of -15 to -60 (0.0002 for one token), 0.017 from F16."""
    if not any(cache_folder().glob(f"{STEM}-*.gguf")):
        pytest.skip("the embedded weights are not in the cache yet; any run with the local model puts them there")
    made = adapter(tmp_path / "lora", "local", r=16, scale=0.1, seed=3)
    summary = merge(made, tmp_path / "out", gguf=True)
    assert summary.difference is not None and summary.difference < 1e-3
    local, same = scores(f"local:{summary.gguf}"), scores(f"hf:{summary.gguf}")
    assert float((local - same).abs().max()) < 0.005
    adapted, plain = scores(f"hf:{made}"), scores("hf:" + find_base("local").place)
    assert float((local - adapted).abs().max()) < 0.05  # F16 against float32
    assert float((adapted - plain).abs().max()) > 0.1  # what the adapter does
