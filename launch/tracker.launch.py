# SPDX-License-Identifier: Apache-2.0
"""One tracker for one camera: ros2 launch vlt_ros tracker.launch.py image_topic:=/camera/image_raw."""

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
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """Arguments, the transport's profile, and the node."""
    config = PathJoinSubstitution([FindPackageShare("vlt_ros"), "config"])
    profile = PathJoinSubstitution([config, "fastdds.xml"])
    on_jazzy = EqualsSubstitution(EnvironmentVariable("ROS_DISTRO", default_value=""), "jazzy")
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace, one for each camera"),
        DeclareLaunchArgument("params_file", default_value=PathJoinSubstitution([config, "tracker.yaml"]),
                              description="Parameters; the arguments below, where given, go before it"),
        DeclareLaunchArgument("image_topic", default_value="image",
                              description="The camera's image topic (for compressed: without /compressed)"),
        DeclareLaunchArgument("camera_info_topic", default_value="camera_info",
                              description="The camera's calibration, for a clicked point in metres"),
        # Empty: as the parameter file says.
        DeclareLaunchArgument("image_transport", default_value="", choices=["", "raw", "compressed"],
                              description="How the images come: raw or compressed"),
        DeclareLaunchArgument("model", default_value="", description="A name that `vlt models` lists"),
        DeclareLaunchArgument("weights", default_value="", description="Weights file (.safetensors)"),
        DeclareLaunchArgument("device", default_value="", description="auto, cpu or cuda:N"),
        DeclareLaunchArgument("initial_command", default_value="",
                              description="What to follow from the start, for example 'the red mug'"),
        DeclareLaunchArgument("use_depth", default_value="", choices=["", "true", "false"],
                              description="Publish target_pose and target_3d, see tracker_depth.launch.py"),
        DeclareLaunchArgument("depth_topic", default_value="depth",
                              description="Depth registered to the colour image"),
        DeclareLaunchArgument("target_frame", default_value="",
                              description="TF frame of target_pose; empty: the camera's optical frame"),
        # Never empty, so these two always go before the file.
        DeclareLaunchArgument("autostart", default_value="true", choices=["true", "false"],
                              description="Configure and activate at once; false under a lifecycle manager"),
        DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"],
                              description="Take the time from /clock"),
        DeclareLaunchArgument("use_respawn", default_value="false", choices=["true", "false"],
                              description="Start the process again if it dies"),
        DeclareLaunchArgument("log_level", default_value="info",
                              description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"],
                              description="Open RViz with debug_image; needs the package rviz2"),
    ]

    def if_given(name: str, kind: type = str) -> dict:
        # An argument left empty sets a parameter that no node declares, so that the file's value stays.
        given = NotEqualsSubstitution(LaunchConfiguration(name), "")
        # As text whatever it looks like: a command such as "7" is no number. Empty is no truth value.
        given_value = LaunchConfiguration(name)
        value = ParameterValue(given_value if kind is str else IfElseSubstitution(given, given_value, "false"),
                               value_type=kind)
        return {(IfElseSubstitution(given, name, f"not_given.{name}"),): value}

    def always(name: str) -> dict:
        return {name: ParameterValue(LaunchConfiguration(name), value_type=bool)}

    node = LifecycleNode(
        package="vlt_ros", executable="vlt_tracker", name="vlt_tracker",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file"),
                    if_given("image_transport"), if_given("model"), if_given("weights"), if_given("device"),
                    if_given("use_depth", bool), if_given("target_frame"),
                    # The node starts itself, so autostart works with every launch_ros, and without one.
                    if_given("initial_command"), always("autostart"), always("use_sim_time")],
        remappings=[("image", LaunchConfiguration("image_topic")),
                    ("image/compressed", [LaunchConfiguration("image_topic"), "/compressed"]),
                    ("depth", LaunchConfiguration("depth_topic")),
                    ("camera_info", LaunchConfiguration("camera_info_topic"))],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        respawn=LaunchConfiguration("use_respawn"), respawn_delay=2.0,
        output="screen", emulate_tty=True)

    # The file's topics are absolute; here they become the namespace's.
    rviz = Node(
        package="rviz2", executable="rviz2", name="rviz", namespace=LaunchConfiguration("namespace"),
        arguments=["-d", PathJoinSubstitution([config, "vlt_ros.rviz"])],
        remappings=[("/debug_image", "debug_image"), ("/clicked_point", "clicked_point")],
        condition=IfCondition(LaunchConfiguration("rviz")), output="screen")

    return LaunchDescription([
        *arguments,
        # Large images over shared memory; the camera's process needs the profile as well (see the file).
        # The variable was renamed after Jazzy; later releases warn about the old name.
        SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile, condition=IfCondition(on_jazzy)),
        SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile, condition=UnlessCondition(on_jazzy)),
        node,
        rviz,
    ])
