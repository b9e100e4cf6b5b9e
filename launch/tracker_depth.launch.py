# SPDX-License-Identifier: Apache-2.0
"""With depth: ros2 launch vlt_ros tracker_depth.launch.py image_topic:=A depth_topic:=B camera_info_topic:=C.

The topics of a RealSense, for example, are /camera/camera/color/image_raw, .../aligned_depth_to_color/image_raw and
.../color/camera_info. All arguments of tracker.launch.py work here too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """The topics that depth needs, and tracker.launch.py with them."""
    tracker = PathJoinSubstitution([FindPackageShare("vlt_ros"), "launch", "tracker.launch.py"])
    return LaunchDescription([
        DeclareLaunchArgument("depth_topic", description="Depth registered to the colour image (16UC1 or 32FC1)"),
        DeclareLaunchArgument("camera_info_topic", description="The colour camera's"),
        IncludeLaunchDescription(tracker, launch_arguments={"use_depth": "true"}.items()),
    ])
