# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: ros2 launch vlt_ros multi_camera.launch.py cameras:=front,rear=/oak/rgb/image_raw.

Their trackers share one network in memory where they ask for the same one. For a process each, start
tracker.launch.py once for every camera.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import (
    EnvironmentVariable,
    EqualsSubstitution,
    IfElseSubstitution,
    LaunchConfiguration,
    NotEqualsSubstitution,
    PathJoinSubstitution,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Arguments, the transport's profile, and the process."""
    config = PathJoinSubstitution([FindPackageShare("vlt_ros"), "config"])
    profile = PathJoinSubstitution([config, "fastdds.xml"])
    on_jazzy = EqualsSubstitution(EnvironmentVariable("ROS_DISTRO", default_value=""), "jazzy")
    arguments = [
        DeclareLaunchArgument("cameras", description="Namespaces, each with its image topic where that is not "
                              "NAMESPACE/<image_topic>: front,robot_2/front=/oak/rgb/image_raw"),
        DeclareLaunchArgument("params_file", default_value=PathJoinSubstitution([config, "tracker.yaml"]),
                              description="Parameters: of all under /**, of one camera under /NAMESPACE/vlt_tracker; "
                                          "the arguments below, where given, go before it"),
        DeclareLaunchArgument("image_topic", default_value="image",
                              description="Image topic below each namespace (for compressed: without /compressed)"),
        # Empty: as the parameter file says.
        DeclareLaunchArgument("image_transport", default_value="", choices=["", "raw", "compressed"],
                              description="How the images come: raw or compressed"),
        DeclareLaunchArgument("model", default_value="", description="A name that `vlt models` lists"),
        DeclareLaunchArgument("weights", default_value="", description="Weights file (.safetensors)"),
        DeclareLaunchArgument("device", default_value="", description="auto, cpu or cuda:N"),
        DeclareLaunchArgument("initial_command", default_value="",
                              description="What all of them follow from the start, for example 'the red mug'"),
        # Never empty, so these two always go before the file.
        DeclareLaunchArgument("autostart", default_value="true", choices=["true", "false"],
                              description="Configure and activate at once; false under a lifecycle manager"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"],
                              description="Take the time from /clock"),
        DeclareLaunchArgument("use_respawn", default_value="false", choices=["true", "false"],
                              description="Start the process again if it dies"),
        DeclareLaunchArgument("log_level", default_value="info",
                              description="debug, info, warn, error or fatal"),
    ]

    def if_given(name: str) -> dict:
        # An argument left empty sets a parameter that no node declares, so that the file's value stays.
        given = NotEqualsSubstitution(LaunchConfiguration(name), "")
        value = ParameterValue(LaunchConfiguration(name), value_type=str)
        return {(IfElseSubstitution(given, name, f"not_given.{name}"),): value}

    def always(name: str) -> dict:
        return {name: ParameterValue(LaunchConfiguration(name), value_type=bool)}

    # Without a name and a namespace, which would be those of all nodes in it.
    process = Node(
        package="vlt_ros", executable="vlt_tracker",
        parameters=[LaunchConfiguration("params_file"),
                    if_given("image_transport"), if_given("model"), if_given("weights"), if_given("device"),
                    if_given("initial_command"), always("autostart"), always("use_sim_time")],
        remappings=[("image", LaunchConfiguration("image_topic")),
                    ("image/compressed", [LaunchConfiguration("image_topic"), "/compressed"])],
        arguments=["--cameras", LaunchConfiguration("cameras"),
                   "--ros-args", "--log-level", LaunchConfiguration("log_level")],
        respawn=LaunchConfiguration("use_respawn"), respawn_delay=2.0,
        output="screen", emulate_tty=True)

    return LaunchDescription([
        *arguments,
        # As in tracker.launch.py: large images over shared memory.
        SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile, condition=IfCondition(on_jazzy)),
        SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile, condition=UnlessCondition(on_jazzy)),
        process,
    ])
