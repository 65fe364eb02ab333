"""Template sets: folders of Jinja files that word what the models are asked.

A set has `critique.jinja` and `revise.jinja`, or `judge.jinja` and `verdict.jinja`, or both; `gate.jinja` if it asks
whether a reply needs a revision at all, `screen.jinja` if it asks that under several principles before any critique,
and `scale.jinja` if it asks for ratings. With `respond.jinja` it is a completion set, which writes the whole text that
a base model continues, after the worked examples of its `examples.yaml`. A template names its stop strings by `{% set
stop = [...] %}`; judge.jinja, scale.jinja and screen.jinja name by `frame` what separates their texts, and so do
critique.jinja, gate.jinja and revise.jinja if they quote the conversation in one turn instead of continuing it. Others
name by `prefix` how the answer begins, so that the letter, word, digit or reply comes next.
Rendering is sandboxed and strict: an undefined variable is an error, and text from prompts and replies is data, never
rendered again.
"""
