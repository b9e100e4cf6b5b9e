# SPDX-License-Identifier: Apache-2.0
"""The node against a recording: ros2 launch vlt_ros bag_eval.launch.py bag:=DIR image_topic:=/camera text:="..."."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Arguments, and `vlt bag --online`, which starts the node in a ROS domain of its own and ends with a report."""
    config = PathJoinSubstitution([FindPackageShare("vlt_ros"), "config"])
    arguments = [
        DeclareLaunchArgument("bag", description="rosbag2 folder, or its .mcap or .db3 file"),
        DeclareLaunchArgument("image_topic", description="Its topic of images, as it was recorded"),
        DeclareLaunchArgument("text", description="What to follow, for example 'the red mug'"),
        DeclareLaunchArgument("params_file", default_value=PathJoinSubstitution([config, "tracker.yaml"]),
                              description="The node's parameters"),
        DeclareLaunchArgument("out", default_value="out/bag", description="Folder for the report and the output bag"),
    ]
    # The command `vlt` of this package, by the path that the workspace's setup file gave this process.
    evaluation = ExecuteProcess(
        cmd=["vlt", "bag", LaunchConfiguration("bag"), "--online", "--image-topic", LaunchConfiguration("image_topic"),
             "--text", LaunchConfiguration("text"), "--params-file", LaunchConfiguration("params_file"),
             "--out", LaunchConfiguration("out")],
        output="screen", emulate_tty=True)
    done = OnProcessExit(target_action=evaluation, on_exit=[EmitEvent(event=Shutdown(reason="the bag is evaluated"))])
    return LaunchDescription([*arguments, evaluation, RegisterEventHandler(done)])
