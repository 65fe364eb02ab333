#!/usr/bin/env bash
# Preference pairs without human labellers: candidates, a judge, and what its labels are worth.
#
#   examples/judge.sh                                            the embedded model, a minute or two on two cores
#   MODEL=openai:gpt-4.1-mini JUDGE=openai:gpt-4.1 examples/judge.sh prompts.jsonl gold.jsonl runs/mine
#
# The gold pairs here are eight, which shows the report and proves nothing: take 100 to 500 of your own (docs/judging.md),
# and replace --min-confidence 0.5, which keeps what any judge says, by --gold FILE --agreement 0.85.
# If it is stopped or killed, run the same command again to resume.
set -euo pipefail

here=$(dirname "$0")
model=${MODEL:-local}
judge=${JUDGE:-$model}
prompts=${1:-$here/prompts.jsonl}
gold=${2:-$here/gold-pairs.jsonl}
out=${3:-runs/judge}

cai sample "$prompts" --model "$model" -n 3 --max-tokens "${MAX_TOKENS:-96}" --out "$out/replies"
cai judge bench --gold "$gold" --judge "$judge" --constitution harmless --out "$out/bench"
cai label "$out/replies" --constitution harmless --judge "$judge" --min-confidence 0.5 --out "$out/labels"
cai export "$out/labels" --min-confidence 0.5 --pairing best-worst
cai constitution ablate "$out/labels"
