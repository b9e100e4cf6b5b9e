# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: names, the shared network, and each with its own target."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

WHY = "needs a sourced ROS 2 or the wheels of `make setup`"
pytest.importorskip("rclpy", reason=WHY)
pytest.importorskip("vlt_ros.msg", reason=WHY)

from harness import BOX, PICTURE, START_S, NodeProcess, Robot  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from vlt_ros.msg import Target  # noqa: E402

from vlt_ros.ros.cameras import Networks, node_arguments  # noqa: E402


def test_two_cameras_in_one_process_follow_their_own_targets_in_their_own_images(ros, weights, tmp_path):
    process = NodeProcess("", tmp_path / "log.txt", weights=weights, track_threshold=0.0, lost_threshold=0.0,
                          image_timeout_s=20.0,
                          program=("-m", "vlt_ros.ros.node", "--cameras", "robot_1/front,rear=/oak/rgb"))
    front, rear = Robot("/robot_1/front"), Robot("/rear")
    rear.node.destroy_publisher(rear.image)
    rear.image = rear.node.create_publisher(Image, "/oak/rgb", 1)
    try:
        for robot in (front, rear):
            robot.wait(lambda robot=robot: robot.state() == "active", START_S, "autostart")
        front.show()
        front.point(BOX, "the red mug")
        rear.say("the blue mug")
        first = front.wait_for_status(text="the red mug", state=Target.TRACKING)
        second = rear.wait_for_status(text="the blue mug", state=Target.SEARCHING)
        assert first.target_id == second.target_id == 1, "each counts its own"
        image, seen = front.show()
        wide, other = rear.show(rear.picture_message(np.hstack([PICTURE, PICTURE])))
        assert (seen.header, seen.text, seen.image_width) == (image.header, "the red mug", 160)
        assert (other.header, other.text, other.image_width) == (wide.header, "the blue mug", 320)
        # One camera's configuration, failure and end are its own.
        rear.to_unconfigured()
        assert rear.set(weights="/nowhere/w.safetensors").successful and not rear.transition("configure")
        assert front.show()[1].state == Target.TRACKING
        assert process.interrupt() == 0
        assert "Traceback" not in process.output()
    finally:
        if process.alive:
            process.interrupt()
        front.close()
        rear.close()


def test_nodes_with_equal_wishes_share_one_network_and_others_do_not(ros, weights):
    from rclpy.parameter import Parameter

    from vlt_ros.ros.node import VltTracker

    networks = Networks()
    nodes = [VltTracker(networks, namespace=f"/shared_{index}", parameter_overrides=[
        Parameter("weights", value=str(weights)), Parameter("precision", value=precision)])
        for index, precision in enumerate(["fp32", "fp32", "bf16"])]
    try:
        for node in nodes:
            node.trigger_configure()
        one, same, other = (node._network for node in nodes)
        assert one is same and other is not one and other.precision == "bf16"
        assert next(one.parameters()).data_ptr() == next(same.parameters()).data_ptr()
        assert len(networks._loaded) == 2
        del one, same, other
        nodes[0].trigger_cleanup()
        assert len(networks._loaded) == 2, "the second still holds it"
        nodes[1].trigger_cleanup()
        gc.collect()
        assert len(networks._loaded) == 1
    finally:
        for node in nodes:
            node.destroy_node()


class Moved:
    """Says where it was moved."""

    device = "cuda:0"

    def __init__(self) -> None:
        self.at = ""

    def to(self, device) -> None:
        self.at = device


def test_device_is_freed_only_by_the_last_that_runs_the_network():
    networks, network = Networks(), Moved()
    networks.enter(network)
    networks.enter(network)
    assert network.at == "cuda:0"
    networks.leave(network)
    networks.free_device(network)
    assert network.at == "cuda:0"
    networks.leave(network)
    networks.free_device(network)
    assert network.at == "cpu"


def test_a_weights_file_written_anew_is_loaded_anew(weights, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    networks = Networks()
    first = networks.load(copy, device="cpu")
    assert networks.load(copy, device="cpu") is first
    copy.touch()
    assert networks.load(copy, device="cpu") is not first


def test_threads_that_share_a_network_do_not_disturb_each_other(weights):
    """The same targets as one after the other, bit for bit."""
    from vlt_ros.tracker import Tracker, TrackerSettings

    network = Networks().load(weights, device="cpu", precision="fp32")

    def follow(seed: int) -> list:
        images = np.random.default_rng(seed).integers(0, 255, (4, 120, 160, 3), np.uint8)
        tracker = Tracker(network, TrackerSettings(track_threshold=0, lost_threshold=0))
        tracker.start(f"mug {seed}", images[0], BOX, 0.0)
        return [tracker.track(image, float(index)) for index, image in enumerate(images)]

    alone, together = [follow(seed) for seed in range(3)], [None] * 3
    assert len({target.box for targets in alone for target in targets}) > 8, "boxes that move"

    def run(seed: int) -> None:
        together[seed] = follow(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_names_of_cameras():
    assert node_arguments([]) == [{}]
    plain, named = node_arguments(["--cameras", "front, /robot/rear=/oak/rgb"])
    assert plain == {"namespace": "/front", "cli_args": None}
    assert named["namespace"] == "/robot/rear"
    assert named["cli_args"] == ["--ros-args", "-r", "image:=/oak/rgb", "-r", "image/compressed:=/oak/rgb/compressed"]


@pytest.mark.parametrize("cameras", ["", ",", "front,front", "=/rgb"])
def test_names_that_are_none_end_the_process_with_the_reason(cameras, capsys):
    with pytest.raises(SystemExit) as ended:
        node_arguments(["--cameras", cameras])
    assert ended.value.code == 2 and "camera" in capsys.readouterr().err
