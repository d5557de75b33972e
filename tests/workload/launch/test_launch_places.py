"""An option in a script has its own line and column in the file, however the script is written."""

from __future__ import annotations

import pytest
from tests.workload.kinds.manifests import documents, only

from ironloom.workload.kinds import workloads_of
from ironloom.workload.launch import place_of
from ironloom.workload.manifests.document import document
from ironloom.workload.manifests.nodes import from_object
from ironloom.workload.workload import Option

HEAD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    command: [sh, -c]\n"


@pytest.mark.parametrize(
    "args",
    [
        "    args:\n    - |\n      set -e\n      exec vllm serve a/b \\\n        --port 1 \\\n        --port 2\n",
        "    args:\n    - >-\n      exec vllm serve a/b\n      --port 1\n      --port 2\n",
        '    args: ["exec vllm serve a/b --port 1 --port 2"]\n',
        "    args: ['exec vllm serve ''a/b'' --port 1 --port 2']\n",
        '    args:\n    - "exec vllm serve a/b \\\n       --port 1 \\\n       --port 2"\n',
    ],
    ids=["literal block", "folded block", "double quotes", "single quotes", "double quotes over lines"],
)
def test_the_place_is_the_options_own(args: str) -> None:
    text = HEAD + args
    one = only(text)
    launch = one.pod_sets[0].containers[0].launch
    assert launch is not None
    first, second = launch.options
    for option, value in ((first, "1"), (second, "2")):
        place = place_of(one.document, option)
        assert text[place.start :].startswith(f"--port {value}")
        assert text[place.start : place.end] == "--port"
        line = text.splitlines()[place.line - 1]
        assert line[place.column - 1 :].startswith(f"--port {value}")


def test_an_option_that_is_an_entry_stands_where_the_entry_does() -> None:
    text = (
        HEAD.replace("command: [sh, -c]", "command: [vllm, serve, a/b]") + "    args:\n    - --port=1\n    - --port=2\n"
    )
    one = only(text)
    launch = one.pod_sets[0].containers[0].launch
    assert launch is not None
    assert [place_of(one.document, option).line for option in launch.options] == [9, 10]


def test_an_object_without_a_text_has_no_places() -> None:
    (made,) = documents(HEAD + '    args: ["vllm serve a/b --port 1"]\n')
    (one,) = workloads_of([document(from_object(made.obj), "<object>")]).workloads
    launch = one.pod_sets[0].containers[0].launch
    assert launch is not None
    assert place_of(one.document, launch.options[0]).line == 0


def test_a_model_that_a_variable_names_stands_at_its_value() -> None:
    text = HEAD.replace("command: [sh, -c]", "image: ghcr.io/huggingface/text-generation-inference:3.3")
    text += "    env:\n    - name: MODEL_ID\n      value: a/b\n"
    one = only(text)
    launch = one.pod_sets[0].containers[0].launch
    assert launch is not None
    place = place_of(one.document, Option(name="", value=None, path=launch.model_path, written=launch.model))
    assert (place.line, place.column, text[place.start : place.end]) == (10, 14, "a/b")
