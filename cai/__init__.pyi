# The public names, and the module of each: type checkers read them here, and so does cai/__init__.py.
from cai.constitution.principles import (
    Constitution as Constitution,
)
from cai.constitution.principles import (
    Principle as Principle,
)
from cai.constitution.principles import (
    list_constitutions as list_constitutions,
)
from cai.constitution.principles import (
    load_constitution as load_constitution,
)
from cai.errors import CaiError as CaiError
from cai.evaluation.ablation import ablate as ablate
from cai.evaluation.audit import audit as audit
from cai.evaluation.bench import judge_bench as judge_bench
from cai.evaluation.trial import constitution_test as constitution_test
from cai.export.export import export_run as export_run
from cai.folder.store import read_calls as read_calls
from cai.judge.calibration import calibrate_judge as calibrate_judge
from cai.records import (
    Candidate as Candidate,
)
from cai.records import (
    Candidates as Candidates,
)
from cai.records import (
    Drop as Drop,
)
from cai.records import (
    Label as Label,
)
from cai.records import (
    Message as Message,
)
from cai.records import (
    Prompt as Prompt,
)
from cai.records import (
    Revision as Revision,
)
from cai.records import (
    Round as Round,
)
from cai.records import (
    Usage as Usage,
)
from cai.records import (
    Vote as Vote,
)
from cai.runs.doors import (
    agenerate as agenerate,
)
from cai.runs.doors import (
    alabel as alabel,
)
from cai.runs.doors import (
    asample as asample,
)
from cai.runs.doors import (
    generate as generate,
)
from cai.runs.doors import (
    label as label,
)
from cai.runs.doors import (
    sample as sample,
)
from cai.sources.files import read_prompts as read_prompts
from cai.training.train import train as train
from cai.weights.merge import merge as merge
