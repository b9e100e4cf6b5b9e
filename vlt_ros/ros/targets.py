# SPDX-License-Identifier: Apache-2.0
"""Targets beside that of `command`: the topics `add_target` and `remove_target`, and all of them on `targets`."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_msgs.msg import Header, UInt32

from vlt_ros import msg

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Somebody may add several at once.
COMMANDS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class MoreTargets:
    """The topics of the targets beside the main one.

    Args:
        node: publishes and subscribes. add, remove: called for every message with it, or with the id that it names.
    """

    def __init__(self, node: LifecycleNode, add: Callable[[msg.TargetCommand], None],
                 remove: Callable[[int], None]) -> None:
        self._node, self._add, self._remove = node, add, remove
        self._publisher = node.create_publisher(msg.TargetArray, "targets", RELIABLE)
        self._subscriptions: list[Subscription] = []
        self._told = False              # that there are others

    def subscribe(self) -> None:
        """Listen to `add_target` and `remove_target`."""
        self._subscriptions = [
            self._node.create_subscription(msg.TargetCommand, "add_target", self._add, COMMANDS),
            self._node.create_subscription(UInt32, "remove_target", lambda message: self._remove(message.data),
                                           COMMANDS)]

    def unsubscribe(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def publish(self, header: Header, targets: list[msg.Target], others: int) -> None:
        """Say all targets of an image while some are beside the main one, and once more when they are gone.

        Args:
            header: of the image. targets: all that are followed. others: how many of them are beside the main one.
        """
        if others or self._told:
            self._publisher.publish(msg.TargetArray(header=header, targets=targets))
        self._told = others > 0

    def destroy(self) -> None:
        """Free the publisher."""
        self._node.destroy_publisher(self._publisher)
