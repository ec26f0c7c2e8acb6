"""What the device's learning process promises its owner, whatever the hub sends and when it ends.

Each test asks in Rounds of its own: the process and its SuperLink are one for all of them.
"""

import os
import re
import signal
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from edge_agent.training.file_ledger import open_ledger
from edge_agent.training.file_replies import FileReplies
from edge_agent.training.node_files import REPLIES
from edge_agent.training.settings import PrivacySettings
from shared.learning.task import LocalMethod, LocalPrivacy
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.model.weights import encode_weights
from tests.support.learning_digits import SPEC, first_weights, task_for
from tests.support.node_bench import NodeBench, reply_in, running_node, update_in
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("flwr_node_faults"),
]
LONG = LocalMethod(epochs=1000)
STOPPED_S_MAX = 4.0
TTL_S = 4.0
PART = re.compile(rb"/pull-object HTTP/1\.1\r\n.*?([0-9a-f]{64})", re.DOTALL)
MIB = 1 << 20
MEMORY_BYTES_MAX = 128 * MIB
TASK_BYTES_MAX = 4 * MIB


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeBench]:
    folder = tmp_path_factory.mktemp("promises")
    with running_node(
        folder, memory_bytes_max=MEMORY_BYTES_MAX, task_bytes_max=TASK_BYTES_MAX
    ) as started:
        yield started


def in_training(bench: NodeBench) -> list[psutil.Process]:
    """Return the children that train right now: those below the one that has torch loaded."""
    node = psutil.Process(bench.running[-1].pid)
    return [child for zygote in node.children() for child in zygote.children()]


def require_it_works(bench: NodeBench, number: int) -> None:
    """Fail unless it is the same process, and does an honest task."""
    reply = bench.server.reply(task_for(first_weights(), round=number))
    assert (reply.refusal_code, reply.is_repeated) == (None, False)
    assert bench.running[-1].poll() is None


def pushes(bench: NodeBench) -> int:
    return bench.recorder.requests().count("POST /v1/fleet/push-messages")


def test_a_job_that_is_stopped_while_it_trains_costs_no_more_and_nothing_is_sent(
    bench: NodeBench,
) -> None:
    bench.want("job-1", "job-2")
    other = bench.open_run("job-2")
    other.ask(task_for(first_weights(), job="job-2", method=LONG, seconds_max=90.0))
    (child,) = wait_until(lambda: in_training(bench), seconds_max=20)
    sent = pushes(bench)
    bench.want("job-1")
    stopped_s = time.monotonic()
    _, alive = psutil.wait_procs([child], timeout=STOPPED_S_MAX)
    assert not alive, "it still trains"
    wait_until(lambda: bench.standing_state() == "online", seconds_max=5)
    assert time.monotonic() - stopped_s < STOPPED_S_MAX + 2.0
    assert pushes(bench) == sent
    assert not list((bench.learning / REPLIES).glob("job-2.*"))
    other.grid.close()
    require_it_works(bench, 10)
    assert pushes(bench) == sent + 1, "and what is sent is seen"


def test_a_kill_between_computing_and_sending_costs_neither_a_training_nor_privacy(
    bench: NodeBench,
) -> None:
    task = task_for(
        first_weights(),
        round=20,
        privacy=LocalPrivacy(clip_norm=1.0, noise_multiplier=2.0),
        method=LocalMethod(epochs=40),
    )
    ledger = open_ledger(bench.learning, bench.folder / "device.key", PrivacySettings())
    before = ledger.content().count
    bench.server.ask(task)
    wait_until(lambda: in_training(bench), seconds_max=20)
    bench.proxy.set(is_frozen=True)
    replies = FileReplies(bench.learning / REPLIES)
    computed = wait_until(lambda: replies.find(task), seconds_max=30)
    assert computed is not None
    wait_until(lambda: not in_training(bench))
    os.kill(bench.running[-1].pid, signal.SIGKILL)
    bench.running[-1].wait(5)
    sent = pushes(bench)
    bench.proxy.set()
    bench.proxy.cut()
    assert ledger.content().count == before + 1
    bench.start()
    answer = bench.server.answer(bench.server.ask(task))
    assert pushes(bench) == sent + 1, "it was not sent before"
    assert reply_in(answer).is_repeated
    assert reply_in(answer).epsilon_spent == computed.reply.epsilon_spent
    told = {n: a.numpy() for n, a in answer.content.array_records["update"].items()}
    assert encode_weights(told) == encode_weights(computed.update)
    assert ledger.content().count == before + 1
    assert not psutil.Process(bench.running[-1].pid).children(), "torch was not even loaded"


def test_a_message_that_expires_is_given_up_whether_on_its_way_or_in_training(
    bench: NodeBench,
) -> None:
    # In training: nobody takes the answer any more.
    task = task_for(first_weights(), round=30, method=LocalMethod(epochs=40))
    sent, over_s = pushes(bench), time.monotonic() + TTL_S
    late = bench.server.ask(task, ttl_s=TTL_S)
    (child,) = wait_until(lambda: in_training(bench), seconds_max=20)
    child.suspend()
    wait_until(lambda: time.monotonic() > over_s)
    child.resume()
    wait_until(lambda: pushes(bench) > sent, seconds_max=30)
    assert bench.server.answer(late).has_error()
    # On its way: the network goes while the device knows of it and has not fetched it yet.
    marks = bench.log_text.count("task.expired")
    bench.proxy.set(delay_s=0.4)
    asked = bench.recorder.requests().count("POST /v1/fleet/pull-object")
    bench.server.ask(task_for(first_weights(), round=31), ttl_s=TTL_S)
    wait_until(
        lambda: bench.recorder.requests().count("POST /v1/fleet/pull-object") > asked,
        seconds_max=10,
    )
    bench.proxy.set(is_frozen=True)
    wait_until(lambda: bench.log_text.count("task.expired") > marks, seconds_max=15)
    bench.proxy.set()
    bench.proxy.cut()
    require_it_works(bench, 32)


def test_a_message_whose_way_is_cut_is_fetched_on_from_where_it_was(bench: NodeBench) -> None:
    bench.proxy.set(is_frozen=True)
    before = len(fetched(bench))
    asked = bench.server.ask(task_for(first_weights(), round=35))
    bench.proxy.set(delay_s=0.1)
    bench.proxy.cut()
    wait_until(lambda: len(fetched(bench)) >= before + 6, seconds_max=20)
    bench.proxy.set()
    bench.proxy.cut()
    assert reply_in(bench.server.answer(asked)).refusal_code is None
    parts = fetched(bench)[before:]
    assert len(set(parts)) > 10
    assert len(parts) - len(set(parts)) <= 2, "only what was under way is asked for again"


def fetched(bench: NodeBench) -> list[bytes]:
    """Return the parts of messages that the device asked for, in order of time."""
    return [part for stream in bench.recorder.sent() for part in PART.findall(stream)]


def test_a_model_without_samples_here_and_a_task_that_is_too_big_are_refused(
    bench: NodeBench,
) -> None:
    weights = first_weights()
    other = ModelSpec(
        model="faces",
        task=Task.CLASSIFICATION,
        input=ImageInput(width=8, height=8, colour=Colour.GRAY),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=SPEC.output.classes),
    )
    assert (
        bench.server.reply(task_for(weights, spec=other, round=40)).refusal_code == "policy.model"
    )
    huge = {"ballast": np.zeros(TASK_BYTES_MAX // 4, np.float32)}
    failed = bench.server.answer(bench.server.ask(task_for(weights, round=41), {**weights, **huge}))
    assert "task.too_large" in str(failed.error.reason)
    assert "learning.task_bytes_max" in str(failed.error.reason)
    require_it_works(bench, 42)


def test_a_training_that_takes_too_much_memory_ends_alone(bench: NodeBench) -> None:
    wide = NetworkSpec(architecture=ConvolutionNetwork(channels=(1024,), hidden=8))
    weights = first_weights(wide)
    task = task_for(weights, network=wide, round=50, method=LocalMethod(epochs=1, batch_size=320))
    reply = bench.server.reply(task, weights)
    assert reply.refusal_code == "training.memory", reply.refusal_text
    require_it_works(bench, 51)


def test_the_owner_is_asked_again_for_each_task(bench: NodeBench) -> None:
    require_it_works(bench, 60)
    bench.write_order(jobs_forbidden=("job-*",), memory_bytes_max=MEMORY_BYTES_MAX)
    refused = bench.server.reply(task_for(first_weights(), round=61))
    assert refused.refusal_code == "policy.job"
    # The very answer that was given before the veto is not given again either.
    assert bench.server.reply(task_for(first_weights(), round=60)).refusal_code == "policy.job"
    bench.write_order(
        measurements_forbidden=("loss",),
        memory_bytes_max=MEMORY_BYTES_MAX,
        task_bytes_max=TASK_BYTES_MAX,
    )
    answer = bench.server.answer(bench.server.ask(task_for(first_weights(), round=62)))
    metrics = answer.content.metric_records["metrics"]
    assert "accuracy_after" in metrics
    assert "loss" not in metrics
    assert update_in(answer)
    (bench.learning / "node.json").write_bytes(b"{")
    refused = bench.server.reply(task_for(first_weights(), round=63))
    assert refused.refusal_code == "policy.unreadable"
    bench.write_order(memory_bytes_max=MEMORY_BYTES_MAX, task_bytes_max=TASK_BYTES_MAX)
    require_it_works(bench, 64)
