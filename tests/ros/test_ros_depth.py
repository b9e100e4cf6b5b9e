# SPDX-License-Identifier: Apache-2.0
"""Depth, calibration and a box to metres, against ray casting and OpenCV's projection. No ROS needed."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vlt_ros.ros.depth import DepthError, locate, median_depth, ray, rotate

WIDTH, HEIGHT = 64, 48
K = [80.0, 0.0, 30.5, 0.0, 82.0, 25.0, 0.0, 0.0, 1.0]
BOX = (20.0, 10.0, 24.0, 16.0)


def camera(d=(), model="plumb_bob", k=K, width=WIDTH, height=HEIGHT):
    return SimpleNamespace(width=width, height=height, k=k, d=list(d), distortion_model=model)


def depth_image(metres: np.ndarray, encoding="32FC1", padding=0, big_endian=False):
    order = ">" if big_endian else "<"
    if encoding == "32FC1":
        values = metres.astype(f"{order}f4")
    else:
        values = np.round(np.nan_to_num(metres) * 1000).astype(f"{order}u2")
    rows = values.view(np.uint8).reshape(metres.shape[0], -1)
    rows = np.hstack([rows, np.full((len(rows), padding), 0x77, np.uint8)])
    return SimpleNamespace(width=metres.shape[1], height=metres.shape[0], encoding=encoding, step=rows.shape[1],
                           is_bigendian=int(big_endian), data=rows.tobytes())


def plane(normal, distance) -> np.ndarray:
    """Depth (H, W) [m] of the plane normal . p = distance: each pixel's ray is met with it."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = np.stack([(u - K[2]) / K[0], (v - K[5]) / K[4], np.ones(u.shape)], -1)
    return distance / (rays @ np.array(normal))


def test_a_point_of_a_slanted_plane_is_found():
    normal, distance = np.array([0.3, -0.2, 0.9]), 2.0
    extent = locate(BOX, depth_image(plane(normal, distance)), camera(), 0.001)
    assert normal @ extent.centre == pytest.approx(distance, rel=2e-3)
    # Projected again, it lies in the middle of the box: 32, 18 from the corner, half a pixel less from K's origin.
    none = np.zeros(3)
    pixel = cv2.projectPoints(np.array([extent.centre]), none, none, np.reshape(K, (3, 3)), None)[0].ravel()
    assert tuple(pixel) == pytest.approx((31.5, 17.5))
    z = extent.centre[2]
    assert (extent.width, extent.height) == pytest.approx((24 * z / 80, 16 * z / 82))


@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
@pytest.mark.parametrize("padding, big_endian", [(0, False), (6, False), (1, True)])
def test_units_rows_and_byte_order(encoding, padding, big_endian):
    image = depth_image(np.full((HEIGHT, WIDTH), 1.25), encoding, padding, big_endian)
    assert median_depth(BOX, image, 0.001) == pytest.approx(1.25)
    in_other_units = 12.5 if encoding != "32FC1" else 1.25      # 32FC1 is in metres whatever the scale
    assert median_depth(BOX, image, 0.01) == pytest.approx(in_other_units)


@pytest.mark.parametrize("encoding, nothing", [("16UC1", 0.0), ("32FC1", np.nan), ("32FC1", np.inf), ("32FC1", -np.inf),
                                               ("32FC1", 0.0)])
def test_pixels_without_depth_do_not_count(encoding, nothing):
    metres = np.full((HEIGHT, WIDTH), nothing)
    with pytest.raises(DepthError, match="0 of 96 pixels"):
        median_depth(BOX, depth_image(metres, encoding), 0.001)
    metres[14:22, 26:29] = [1.0, 3.0, 2.0]       # a quarter of the inner box, whose median is 2
    assert median_depth(BOX, depth_image(metres, encoding), 0.001) == pytest.approx(2.0)
    metres[14:22, 27:29] = nothing
    metres[15:22, 26] = nothing                  # one pixel is speckle
    with pytest.raises(DepthError, match="1 of 96"):
        median_depth(BOX, depth_image(metres, encoding), 0.001)


def test_the_background_at_the_border_of_the_box_does_not_count():
    metres = np.full((HEIGHT, WIDTH), 9.0)
    metres[13:23, 25:39] = 2.0                   # a target that fills a third of its box: most pixels are behind it
    assert np.median(metres[10:26, 20:44]) == 9.0
    assert median_depth(BOX, depth_image(metres), 0.001) == 2.0


@pytest.mark.parametrize("box, rows, columns", [
    ((-20.0, -20.0, 30.0, 30.0), slice(0, 3), slice(0, 3)), ((63.5, 47.5, 40.0, 40.0), slice(47, 48), slice(63, 64)),
    ((10.2, 7.2, 0.2, 0.2), slice(7, 8), slice(10, 11))], ids=["corner", "outside", "part of a pixel"])
def test_small_boxes_and_boxes_at_the_border(box, rows, columns):
    metres = np.full((HEIGHT, WIDTH), 9.0)
    metres[rows, columns] = 2.0
    assert median_depth(box, depth_image(metres), 0.001) == 2.0


@pytest.mark.parametrize("model, d", [("plumb_bob", [-0.3, 0.1, 0.002, -0.001, 0.0]), ("rational_polynomial", [
    0.2, -0.1, 0.001, 0.001, 0.02, 0.3, -0.05, 0.01]), ("equidistant", [0.05, -0.02, 0.01, 0.0])])
def test_distortion_is_taken_out(model, d):
    point = np.array([[[0.35, -0.2, 1.0]]])
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixel = project(point, np.zeros(3), np.zeros(3), np.reshape(K, (3, 3)), np.array(d))[0].ravel()
    assert ray(tuple(pixel), camera(d, model)) == pytest.approx((0.35, -0.2), abs=1e-4)
    assert ray(tuple(pixel), camera()) != pytest.approx((0.35, -0.2), abs=1e-3)


@pytest.mark.parametrize("change, part", [
    ({"encoding": "bgr8"}, "'bgr8' is no depth"), ({"step": 10}, "step of 10"), ({"data": b"1234"}, "4 bytes"),
    ({"width": 0}, "camera_info is for"), ({"info": camera(width=128, height=96)}, "128x96"),
    ({"info": camera(k=[0.0] * 9)}, "calibrate"), ({"info": camera(k=[np.nan] * 9)}, "calibrate"),
    ({"info": camera([1.0], "plumb_bob")}, "1 coefficients"), ({"info": camera([1.0] * 4, "mine")}, "'mine'"),
    ({"info": camera([np.nan] * 5)}, "no inverse")])
def test_what_does_not_fit_is_named(change, part):
    image = depth_image(np.ones((HEIGHT, WIDTH)))
    info = change.pop("info", camera())
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(DepthError, match=part):
        locate(BOX, image, info, 0.001)


def test_rotation_is_that_of_opencv():
    axis, angle = np.array([0.2, -0.5, 0.8]) / np.linalg.norm([0.2, -0.5, 0.8]), 1.1
    quaternion = (*(axis * np.sin(angle / 2)), np.cos(angle / 2))
    expected = cv2.Rodrigues(axis * angle)[0] @ [1.0, 2.0, 3.0]
    assert rotate(quaternion, (1.0, 2.0, 3.0)) == pytest.approx(tuple(expected))
