#!/usr/bin/env bash
# Training data from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, a gateway, …
#
#   OPENAI_BASE_URL=http://localhost:8000/v1 MODEL=Qwen/Qwen3-8B examples/own_server.sh prompts.jsonl runs/mine
#
# Says first what it will ask, then asks it; seconds to hours, as the plan says. Stopped or killed, the same command goes
# on where it was. OPENAI_API_KEY is sent where the server wants one.
set -euo pipefail

: "${OPENAI_BASE_URL:?say where the server is, such as http://localhost:8000/v1}"
: "${MODEL:?say which model it serves, such as Qwen/Qwen3-8B}"
prompts=${1:-$(dirname "$0")/prompts.jsonl}
out=${2:-runs/own-server}
run=("$prompts" --constitution harmless --model "openai:$MODEL" --concurrency "${CONCURRENCY:-64}" --out "$out")

cai plan generate "${run[@]}"
cai generate "${run[@]}"
cai export "$out" --split 0.9
