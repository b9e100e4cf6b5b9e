# SPDX-License-Identifier: Apache-2.0
"""The target in the ecosystem's type: vision_msgs/Detection2DArray on `detections`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSProfile, ReliabilityPolicy

from vlt_ros import msg

if TYPE_CHECKING:
    import numpy as np
    from rclpy.lifecycle import LifecycleNode

DETECTIONS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


def is_seen(target: msg.Target) -> bool:
    """Whether the box was seen in this very image: while UNCERTAIN it may be the last one believed."""
    return target.state == msg.Target.TRACKING or (
        target.state == msg.Target.UNCERTAIN and target.last_seen == target.header.stamp)


def hypothesis(target: msg.Target) -> Any:
    """vision_msgs/ObjectHypothesisWithPose: the phrase as the class, the confidence as the score."""
    from vision_msgs.msg import ObjectHypothesisWithPose

    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id, result.hypothesis.score = target.text, float(target.confidence)
    return result


def detection_array(target: msg.Target) -> Any:
    """vision_msgs/Detection2DArray with the target, or empty when it was not seen in this image."""
    from vision_msgs.msg import Detection2D, Detection2DArray

    array = Detection2DArray(header=target.header)
    if is_seen(target):
        one, box = Detection2D(header=target.header, id=str(target.target_id), results=[hypothesis(target)]), target.box
        one.bbox.center.position.x, one.bbox.center.position.y = box.x + box.width / 2, box.y + box.height / 2
        one.bbox.size_x, one.bbox.size_y = float(box.width), float(box.height)
        array.detections.append(one)
    return array


class Detections:
    """Publishes `detections` for every processed image where vision_msgs is installed, nothing elsewhere."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node, self._publisher = node, None
        try:
            from vision_msgs.msg import Detection2DArray
        except ImportError:
            node.get_logger().info("vision_msgs is not installed: no `detections`")
        else:
            self._publisher = node.create_publisher(Detection2DArray, "detections", DETECTIONS)

    def publish(self, target: msg.Target, image: np.ndarray) -> None:
        """Send what a target message says."""
        if self._publisher is not None:
            self._publisher.publish(detection_array(target))

    def destroy(self) -> None:
        """Free the publisher."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
